"""A head whose weights begin at 0, as a vision transformer's does: why there is no map before the first step."""

import pytest
import torch
from tiny import TinyClassifier, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution


class ZeroHead(TinyClassifier):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))
        nn.init.zeros_(self.head[2].weight)


def test_that_the_weights_are_zero_is_the_reason_and_nothing_is_asked_for(tmp_path):
    callback = SaliencyCallback(["saliency"], samples=4, execution=Execution(on_error="raise"))
    with pytest.warns(UserWarning, match="since `head.2.weight` is zero everywhere") as caught:
        trainer(tmp_path, callback).validate(ZeroHead(), loader(), verbose=False)
    assert not [warning for warning in caught if "Name what goes into that" in str(warning.message)]


def test_any_other_end_of_the_gradient_is_named_as_before(tmp_path):
    class Clamped(TinyClassifier):
        def forward(self, images):
            return super().forward(images).clamp(8, 9)

    callback = SaliencyCallback(["saliency"], samples=4, execution=Execution(on_error="raise"))
    with pytest.warns(UserWarning, match=r"is zero before its `clamp`\. Name what goes into that"):
        trainer(tmp_path, callback).validate(Clamped(), loader(), verbose=False)
