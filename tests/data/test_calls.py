"""Calls of a model: which of the arguments are images, and which have a row for each sample."""

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from states import assert_same

from lightning_saliency.data import Call, channels_first, children, join_calls, like_layout, make_call, plain_call

X = torch.arange(4 * 3 * 8 * 6, dtype=torch.float32).view(4, 3, 8, 6)
Pair = namedtuple("Pair", ["picture", "target"])


@dataclass
class Record:
    index: torch.Tensor
    image: torch.Tensor


@dataclass(frozen=True)
class Meta:
    scale: torch.Tensor
    names: list
    mode: str = "any"


def plain(tree):
    """A tree as lists and dicts, for comparisons."""
    parts = children(tree)
    return {key: plain(part) for key, part in parts.items()} if parts else tree


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((X,), {}, (0,)),
        (X, {}, (0,)),  # parentheses alone make no tuple
        ((), {"pixel_values": X}, ("pixel_values",)),
        ((torch.arange(4), X), {}, (1,)),
        (({"id": torch.arange(4), "image": X},), {}, (0, "image")),
        (([torch.arange(4), X],), {}, (0, 1)),
        ((Pair(X, torch.arange(4)),), {}, (0, "picture")),
        ((Record(torch.arange(4), X),), {}, (0, "image")),
        (({"depth": X + 1, "image": X},), {}, (0, "image")),  # under a usual name first
        ((X.byte(), X), {}, (1,)),  # a floating-point one first
        ((), {"mask": (X > 1)[:, :1], "x": X.byte()}, ("x",)),
        ((torch.zeros(4, 5),), {"batch": {"views": [X, X + 1]}}, ("batch", "views", 0)),
    ],
)
def test_the_images_are_found_among_the_arguments(args, kwargs, path):
    call = make_call(args, kwargs)
    assert call.image == path
    assert torch.equal(call.images, X if call.is_floating_point else X.byte())
    assert len(call) == 4


def test_the_images_are_those_that_are_named():
    args, kwargs = ({"left": X, "right": X + 1},), {"other": {"left": X + 2}}
    assert make_call(args, kwargs).image == (0, "left")
    assert make_call(args, kwargs, "right").image == (0, "right")
    assert make_call(args, kwargs, "other.left").image == ("other", "left")
    assert make_call(args, kwargs, "0.left").image == (0, "left")
    assert make_call((X.byte(), X), {}, "0").image == (0,)
    with pytest.raises(ValueError, match=r"images named 'middle', .* got 0\.left: a tensor of shape \(4, 3, 8, 6\)"):
        make_call(args, kwargs, "middle")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("text",), "got no tensor"),
        ((X[0],), r"got 0: a tensor of shape \(3, 8, 6\)"),
        (([X[0, 0], X[1, 0]],), r"got 0\.0: a tensor of shape \(8, 6\) .*, 0\.1: a tensor"),
        ((X.long(), torch.zeros(4, 7)), r"0: a tensor of shape \(4, 3, 8, 6\) and dtype torch.int64, 1: a tensor of"),
    ],
)
def test_a_call_without_images_is_an_error_that_lists_its_tensors(args, says):
    with pytest.raises(ValueError, match=f"the model to be called with images, a floating-point or uint8.*{says}"):
        make_call(args, {})


def full_call(start=0, count=4):
    """A call with rows, entries and what is the same for all."""
    rows = slice(start, start + count)
    batch = {
        "image": X[rows],
        "id": torch.arange(4)[rows],
        "boxes": [torch.full((row + 1, 4), row) for row in range(4)][rows],
    }
    meta = Meta(torch.arange(4.0)[rows, None], ["a", "b", "c", "d"][rows])
    return make_call([batch], {"meta": meta, "prior": torch.ones(7, 2), "flags": [True, False, True], "none": None})


def test_rows_and_entries_of_the_samples_are_told_from_what_is_the_same_for_all():
    assert full_call().per_sample == {(0, "image"), (0, "id"), (0, "boxes"), ("meta", "scale"), ("meta", "names")}
    targets = [{"boxes": torch.zeros(row, 4), "area": 1.0} for row in range(4)]
    detector = make_call((X, targets, ("a", "b", "c", "d"), (1, 2, 3, 4)), {})
    assert detector.per_sample == {(0,), (1,), (2,)}  # not the tuple of numbers, a size
    assert [len(part["boxes"]) for part in detector[[3, 0]].args[1]] == [3, 0]
    assert detector[1:3].args[2:] == (("b", "c"), (1, 2, 3, 4))
    pair = make_call(([X[:2], "any"],), {})  # two images in a list of two
    assert pair.per_sample == {(0, 0)}
    views = make_call(({"views": [X, X + 1, X, X]},), {})  # four views of four images, not a list of images
    assert views.per_sample == {(0, "views", number) for number in range(4)}


@pytest.mark.parametrize("rows", [slice(1, 3), slice(0, 1), [2, 0, 0, 3, 1], [3], slice(None, None, 2)])
def test_some_rows_of_a_call_are_those_of_all_its_inputs(rows):
    part, numbers = full_call()[rows], list(range(4))[rows] if isinstance(rows, slice) else rows
    assert len(part) == len(numbers)
    assert torch.equal(part.images, X[numbers])
    assert part.args[0]["id"].tolist() == numbers
    assert [int(boxes[0, 0]) for boxes in part.args[0]["boxes"]] == numbers
    assert part.kwargs["meta"].scale.flatten().tolist() == numbers
    assert part.kwargs["meta"].names == ["abcd"[number] for number in numbers]
    assert part.kwargs["meta"].mode == "any"
    assert part.kwargs["prior"].shape == (7, 2)
    assert part.kwargs["flags"] == [True, False, True]
    assert isinstance(part.kwargs["meta"], Meta)


def test_the_rows_of_several_calls_are_joined_in_all_their_inputs():
    whole = full_call()
    for parts in ([whole[:1], whole[1:4]], [whole[[number]] for number in range(4)], [whole]):
        joined = join_calls(parts)
        assert joined.image == whole.image
        assert joined.per_sample == whole.per_sample
        assert_same(plain(joined.arguments), plain(whole.arguments))


def test_calls_are_joined_only_where_one_could_stand_for_the_other():
    call = full_call()
    assert call[:1].signature == call[1:4].signature == full_call(2, 2).signature
    hash(call.signature)

    def other(**kwargs):
        return make_call(call.args, {**call.kwargs, **kwargs})

    assert other().signature == call.signature
    assert other(prior=torch.ones(7, 2)).signature == call.signature
    assert other(prior=torch.zeros(7, 2)).signature != call.signature  # the same for all, but not this
    assert other(prior=torch.ones(7, 2, dtype=torch.float64)).signature != call.signature
    assert other(flags=[True, True, True]).signature != call.signature
    assert other(meta=Meta(torch.zeros(4, 1), list("abcd"), "other")).signature != call.signature
    assert other(none=0).signature != call.signature
    assert other(more={}).signature != call.signature
    assert make_call([X], {}).signature != make_call([X[:, :, :7]], {}).signature
    assert make_call([X], {}).signature != make_call([X.double()], {}).signature


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_what_a_model_does_to_a_copy_is_not_done_to_the_call(context):
    with context():
        call = full_call()
        before = copy.deepcopy(plain(call.arguments))
        copied = call.copied()
        batch, kwargs = copied.args[0], copied.kwargs
        batch.pop("id").add_(1)
        batch["image"].zero_()
        batch["boxes"].pop().zero_()
        batch["boxes"][0].zero_()
        kwargs["meta"].scale.zero_()
        kwargs["meta"].names.clear()
        kwargs.pop("prior").zero_()
        kwargs["flags"].append(False)
        assert_same(plain(call.arguments), before)
    for tensor in (copied.images, kwargs["meta"].scale, batch["boxes"][0]):
        assert not tensor.is_inference()


def test_images_take_the_place_of_a_copy_as_they_are():
    images = torch.rand(4, 3, 8, 6, requires_grad=True)
    other = full_call().copied(images)
    other.images.sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))
    half = make_call([X.half()], {}).copied(images)
    assert half.images.dtype == torch.float16


def test_all_tensors_are_moved_also_those_in_lists():
    moved = full_call().to("meta")
    assert {tensor.device.type for tensor in (moved.images, *moved.args[0]["boxes"], moved.kwargs["prior"])} == {"meta"}


def test_channels_last_images_are_seen_channels_first_and_put_back():
    nhwc = X.permute(0, 2, 3, 1).contiguous()
    call = make_call([nhwc], {})
    assert torch.equal(call.images, X)
    assert torch.equal(call[1:3].images, X[1:3])
    copied = call.copied(X + 1)
    assert torch.equal(copied.args[0], nhwc + 1)
    assert torch.equal(copied.images, X + 1)
    for images in (X, X[:, :1], X.expand(4, 3, 8, 6), torch.zeros(2, 8, 6, 7), torch.zeros(1, 2, 3, 3)):
        assert channels_first(images) is images
        assert like_layout(images, images) is images


@pytest.mark.parametrize("num_frames", [2, 4, 5, 16])
def test_frames_in_color_may_come_before_their_channels(num_frames):
    frames = torch.rand(2, num_frames, 3, 8, 6)
    assert channels_first(frames).shape == (2, 3, num_frames, 8, 6)
    assert like_layout(channels_first(frames), frames).shape == frames.shape
    for volumes in (torch.rand(2, 1, 3, 8, 6), torch.rand(2, 3, 4, 8, 6), torch.rand(2, 4, 8, 8, 6)):
        assert channels_first(volumes) is volumes


def test_a_plain_call_is_one_argument():
    call = plain_call(X)
    assert isinstance(call, Call)
    assert (len(call.args), call.kwargs, call.image) == (1, {}, (0,))
    assert call[:] is call
    assert call[0:4] is call
    assert torch.equal(call[-1:].images, X[-1:])


def test_rows_are_taken_from_tensors_of_any_layout():
    adjacency = torch.arange(16.0).view(4, 4)
    call = make_call([torch.zeros(4, 3, 8, 8), adjacency.to_sparse()], {})
    assert torch.equal(call[1:3].args[1].to_dense(), adjacency[1:3])
    assert torch.equal(call[[2, 0, 2]].args[1].to_dense(), adjacency[[2, 0, 2]])
    assert len(call[[]]) == 0
    rows = call.separate([3, 1])
    assert [row.args[1].to_dense().tolist() for row in rows] == [adjacency[3:].tolist(), adjacency[1:2].tolist()]
    assert torch.equal(join_calls(rows).args[1].to_dense(), adjacency[[3, 1]])


@pytest.mark.parametrize("container", [list, tuple])
def test_a_list_of_images_is_found_stacked_and_cut(container):
    pictures = container(torch.rand(3, 8, 8) for _ in range(3))
    boxes = [{"boxes": torch.zeros(3, 4)} for _ in range(3)]
    call = make_call(({"pictures": pictures}, boxes), {"threshold": torch.tensor([0.5])})
    assert call.image == (0, "pictures")
    assert len(call) == 3
    assert torch.equal(call.images, torch.stack(list(pictures)))
    assert call.per_sample == {(0, "pictures"), (1,)}
    part = call[1:]
    assert type(part.given) is container
    assert part.given[0] is pictures[1]
    assert part.arguments[1] == boxes[1:]
    again = join_calls([call[:1], part])
    assert again.signature == call.signature == part.signature
    assert all(map(torch.equal, again.given, pictures))
    assert all(one.given[0].untyped_storage().nbytes() == 3 * 8 * 8 * 4 for one in call.separate([0, 2]))


def test_images_in_place_of_a_list_are_part_of_the_graph():
    pictures = [torch.rand(3, 8, 8, dtype=torch.float64) for _ in range(2)]
    call = make_call((pictures,), {})
    images = call.images.clone().requires_grad_()
    given = call.copied(images).args[0]
    assert type(given) is list
    (given[1] * 2).sum().backward()
    assert torch.equal(images.grad, torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 2.0)]).double())
    copy = call.copied().args[0]
    copy[0].zero_()
    copy.append(None)
    assert len(pictures) == 2
    assert pictures[0].any()


def test_a_list_of_several_sizes_is_a_call_of_each():
    call = make_call(([torch.rand(3, 8, 8), torch.rand(3, 6, 9)],), {})
    assert len(call) == 2
    assert [one.images.shape for one in call.separate([1, 0])] == [(1, 3, 6, 9), (1, 3, 8, 8)]
    assert call.first_repeated.shape == (2, 3, 8, 8)
    assert call[:1].signature != call[1:].signature
    with pytest.raises(ValueError, match="images of one size"):
        _ = call.images


def test_tensors_come_before_lists_and_lists_before_signals():
    views = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)]
    assert make_call((views,), {}).image == (0, 0)
    assert make_call(([torch.rand(3, 8, 8)],), {}, signals=True).image == (0,)
    assert make_call((torch.rand(2, 1, 100),), {}, signals=True).image == (0,)
    assert make_call(([torch.zeros(3, 8, 8, dtype=torch.uint8)],), {}).is_floating_point is False


def test_a_list_of_images_channels_last():
    call = make_call(([torch.rand(8, 9, 3), torch.rand(8, 9, 3)],), {})
    assert call.images.shape == (2, 3, 8, 9)
    assert torch.equal(call.copied(call.images).args[0][1], call.given[1])
