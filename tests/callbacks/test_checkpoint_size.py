"""What the callback adds to a checkpoint: what is shown, and no more however much is measured or looked through."""

import torch
from recipes import fit
from tiny import data, loader

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution, Metrics, Samples
from lightning_saliency.history import load_record


def fit_and_save(folder, *, max_epochs=1, ckpt_path=None, val=None, **options):
    """Train, and return the path of a checkpoint."""
    ours = SaliencyCallback("cam", execution=Execution(on_error="raise"), **({"samples": 4} | options))
    runner, _ = fit(folder, ours, max_epochs=max_epochs, ckpt_path=ckpt_path, val=val)
    runner.save_checkpoint(folder / "saved.ckpt")
    return folder / "saved.ckpt"


def test_a_checkpoint_does_not_grow_with_the_samples_that_are_measured(tmp_path):
    val, sizes = loader(data(328), batch_size=41), {}
    for num in (128, 328):
        folder, metrics = tmp_path / str(num), Metrics("all", samples=num)
        path = fit_and_save(folder, val=val, metrics=metrics)
        sizes[num] = path.stat().st_size
        fit_and_save(folder, val=val, metrics=metrics, max_epochs=2, ckpt_path=str(path))
        scalars = load_record(folder)[-1].scalars
        assert {"cam/rank_correlation_initial", "cam/rank_correlation_previous"} <= scalars.keys()
    assert sizes[328] - sizes[128] < 20_000  # where their heatmaps would take 200 kB


def test_a_checkpoint_holds_no_more_than_is_shown(tmp_path):
    images, labels = data(60, size=64)[:]
    order = labels.argsort(stable=True)
    val = loader(torch.utils.data.TensorDataset(images[order], labels[order]), batch_size=20)
    few, more = (
        fit_and_save(tmp_path / str(num), val=val, samples=Samples(num=num, choose="per_class")).stat().st_size
        for num in (2, 6)
    )
    each = 3 * 64 * 64 * 4 + 2 * 32 * 32 * 2 + 4000  # an image, and its heatmap twice
    assert more - few < 4 * each
