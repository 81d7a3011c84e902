"""Images that a step makes itself are no samples: noise, beside which an energy model sees its images."""

import torch
from looking import Keeps
from tiny import L, data, first, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback
from lightning_saliency.callbacks import Execution


class Energies(L.LightningModule):
    def __init__(self, *, noise_first):
        super().__init__()
        self.noise_first = noise_first
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)
        )  # fmt: skip

    def forward(self, images):
        return self.net(images).squeeze(1)

    def training_step(self, batch, batch_idx):
        noise = torch.rand_like(batch[0])
        both = [noise, batch[0]] if self.noise_first else [batch[0], noise]
        real, made = self(torch.cat(both)).chunk(2)
        return made.mean() - real.mean() + (real**2 + made**2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=8)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_noise_beside_the_images_is_no_sample(tmp_path):
    for noise_first in (False, True):
        keeps, module = Keeps(), Energies(noise_first=noise_first)
        execution = Execution(on_error="raise", audit=True)
        callback = SaliencyCallback(samples=first(6), outputs=[keeps], execution=execution, history=False)
        trainer(tmp_path, callback, max_epochs=1).fit(module, loader(), loader())
        for look in keeps.looks:
            (group,) = look.explained
            assert torch.equal(group.samples.call.images, data()[:6][0])
            assert group.explanation.task.name == "regression"
        with torch.no_grad():
            torch.testing.assert_close(group.explanation.logits[:, 0], module.eval()(data()[:6][0]))
