"""The recipes on a GPU: training with the callback is the training without it; skipped where there is none."""

import dataclasses

import pytest
import torch
from recipes import METHODS, RECIPES, parametrized, run
from tiny import TinyClassifier, data

from lightning_saliency import explain
from lightning_saliency.callbacks.audit import changed

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ON_GPU = {"accelerator": "gpu", "deterministic": True}
PRECISIONS = [
    dataclasses.replace(RECIPES[0], name=f"precision={precision!r}", trainer={"precision": precision})
    for precision in ("16-mixed", "16-true")
]


@parametrized([*PRECISIONS, *(recipe for recipe in RECIPES if recipe.on_gpu)])
def test_training_with_the_callback_is_the_training_without_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products
    recipe = dataclasses.replace(recipe, trainer=ON_GPU | recipe.trainer)
    without = run(recipe, tmp_path / "without")
    assert changed(without, run(recipe, tmp_path / "with", *recipe.ours())) == []


def test_the_random_states_of_all_devices_are_kept():
    class Draws(TinyClassifier):
        def forward(self, images):
            return super().forward(images + 0 * torch.randn_like(images))

    model = Draws().cuda()
    before = [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())]
    explain(model, data()[:2][0], methods=METHODS)
    after = [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
