import pytest
import torch

from lightning_saliency.callbacks import Samples
from lightning_saliency.data import FixedBatch

X = torch.rand(4, 3, 8, 8)
Y = torch.tensor([2, 0, 1, 2])


def collected(batch: FixedBatch, size: int = 3, num: int = 10, labels=None) -> FixedBatch:
    images = torch.arange(float(num)).view(-1, 1, 1, 1).expand(num, 3, 2, 2)
    labels = torch.arange(num) % 4 if labels is None else labels
    batch.begin()
    for start in range(0, num, size):
        batch.offer((images[start : start + size], labels[start : start + size]))
    batch.end(whole=True)
    return batch


def positions(samples: Samples | None) -> list[int]:
    return [int(image[0, 0, 0]) for image in samples.images]


def test_what_is_kept_of_a_stream():
    assert positions(collected(FixedBatch(4)).fixed) == [0, 1, 2, 3]
    assert positions(collected(FixedBatch(40)).fixed) == list(range(10))  # a short stream
    assert positions(collected(FixedBatch(indices=[7, 0, 7])).fixed) == [7, 0, 7]
    sorted_labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    per_class = collected(FixedBatch(5, choose="per_class"), labels=sorted_labels)
    assert positions(per_class.fixed) == [0, 6, 9, 1, 7]
    assert per_class.fixed.labels.tolist() == [0, 1, 2, 0, 1]


def test_what_is_complete_is_not_collected_again_and_what_is_not_is_collected_anew():
    batch = collected(FixedBatch(2))
    collected(batch, labels=torch.zeros(10, dtype=torch.long))
    assert batch.fixed.labels.tolist() == [0, 1]

    partial = FixedBatch(4)
    partial.begin()
    partial.offer((torch.full((2, 3, 2, 2), 99.0), torch.tensor([5, 5])))
    partial.end(whole=False)  # sanity checking has seen a part of the stream
    assert positions(partial.current()) == [99, 99]
    assert positions(collected(partial).fixed) == [0, 1, 2, 3]


def test_the_samples_are_copies_on_the_cpu():
    images = X.clone()
    batch = FixedBatch(2)
    with torch.inference_mode():
        batch.offer((images, Y))
    images.zero_()
    assert torch.equal(batch.fixed.images, X[:2])
    assert batch.fixed.images._base is None  # not a view that keeps the whole batch alive


def test_errors_of_a_stream():
    with pytest.raises(ValueError, match=r"positions in the stream, which held 10 images, got \[12\]"):
        collected(FixedBatch(indices=[1, 12]))
    batch = FixedBatch(8)
    batch.offer(X)
    with pytest.raises(ValueError, match=r"one size, got \(3, 8, 8\) and \(3, 9, 9\)"):
        batch.offer(torch.rand(1, 3, 9, 9))
    with pytest.raises(ValueError, match="choose='per_class'"):
        FixedBatch(choose="per_class").offer(X)


def test_the_state_survives_a_checkpoint_and_gives_way_to_given_samples(tmp_path):
    batch = collected(FixedBatch(2))
    torch.save(batch.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = FixedBatch(2)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.fixed.images, batch.fixed.images)
    given = FixedBatch(given=Samples(X))
    given.load_state_dict(state)
    assert given.fixed.images is X
    empty = FixedBatch()
    empty.load_state_dict(FixedBatch().state_dict())
    assert empty.fixed is None
