"""Clients in the forms of Lightning's own examples and documentation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import pytorch_lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
import torchvision
from client_kinds import Case, Data, Oracle, Step, batches, by_position, client, image_batches, images
from torch import Tensor, nn

_README = "Lightning: README and introduction"
_EXAMPLES = "Lightning: examples/pytorch"
_DOCS = "Lightning: documentation"
_DIGITS = (1, 28, 28)


@client(_README, "one layer, `self.l1`; training alone, no validation")
def mnist_mlp() -> Case:
    class MNISTModel(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.l1 = nn.Linear(28 * 28, 10)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.l1(x.view(x.size(0), -1)))

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.02)

    return Case(MNISTModel(), Oracle(), image_batches(*_DIGITS, count=10)[0])


@client(_README, "`Sequential` from `Flatten` on; `log_softmax` and `nll_loss`; torchmetrics")
def lit_mnist() -> Case:
    class LitMNIST(L.LightningModule):
        def __init__(self, hidden_size: int = 64) -> None:
            super().__init__()
            self.model = nn.Sequential(
                nn.Flatten(),
                nn.Linear(28 * 28, hidden_size),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(hidden_size, hidden_size),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(hidden_size, 10),
            )
            self.val_accuracy = torchmetrics.classification.Accuracy(task="multiclass", num_classes=10)

        def forward(self, x: Tensor) -> Tensor:
            return F.log_softmax(self.model(x), dim=1)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return F.nll_loss(self(x), y)

        def validation_step(self, batch: Any, _: int) -> None:
            x, y = batch
            logits = self(x)
            self.val_accuracy.update(torch.argmax(logits, dim=1), y)
            self.log("val_loss", F.nll_loss(logits, y), prog_bar=True)
            self.log("val_acc", self.val_accuracy, prog_bar=True)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=2e-4)

    return Case(LitMNIST(), by_position(), *image_batches(*_DIGITS, count=10))


@client(_README, "`encoder` and `decoder`; `forward` is the embedding; no validation")
def readme_autoencoder() -> Case:
    class LitAutoEncoder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(28 * 28, 128), nn.ReLU(), nn.Linear(128, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 28 * 28))

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x = batch[0].view(batch[0].size(0), -1)
            return F.mse_loss(self.decoder(self.encoder(x)), x)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    return Case(LitAutoEncoder(), Oracle(), image_batches(*_DIGITS, count=10)[0])


@client(_DOCS, "`encoder` and `decoder` without `forward`; the validation step calls both")
def docs_autoencoder() -> Case:
    class LitAutoEncoder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 28 * 28))

        def reconstruction_loss(self, batch: Any) -> Tensor:
            x = batch[0].view(batch[0].size(0), -1)
            return F.mse_loss(self.decoder(self.encoder(x)), x)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.reconstruction_loss(batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.reconstruction_loss(batch))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    return Case(LitAutoEncoder(), Oracle(), *image_batches(*_DIGITS, count=10))


@client(_EXAMPLES, "`forward` flattens, encodes and decodes")
def autoencoder() -> Case:
    class LitAutoEncoder(Step):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 28 * 28))

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x))

        def loss(self, batch: Any) -> Tensor:
            x, _ = batch
            x = x.view(x.size(0), -1)
            return F.mse_loss(self.decoder(self.encoder(x)), x)

    return Case(LitAutoEncoder(), Oracle(), *image_batches(*_DIGITS, count=10))


@client(_EXAMPLES, "two networks, manual optimization, no validation step")
def gan() -> Case:
    class GAN(L.LightningModule):
        def __init__(self, latent_dim: int = 16) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.latent_dim = latent_dim
            self.generator = nn.Sequential(nn.Linear(latent_dim, 64), nn.LeakyReLU(0.2), nn.Linear(64, 784), nn.Tanh())
            self.discriminator = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1), nn.Sigmoid()
            )

        def forward(self, z: Tensor) -> Tensor:
            return self.generator(z).view(z.size(0), *_DIGITS)

        def adversarial_loss(self, images: Tensor, is_real: bool) -> Tensor:
            answers = self.discriminator(images)
            return F.binary_cross_entropy(answers, torch.full_like(answers, float(is_real)))

        def training_step(self, batch: Any) -> None:
            real, _ = batch
            first, second = self.optimizers()
            made = self(torch.randn(real.shape[0], self.latent_dim).type_as(real))
            self.toggle_optimizer(first)
            self.manual_backward(self.adversarial_loss(made, True))
            first.step()
            first.zero_grad()
            self.untoggle_optimizer(first)
            self.toggle_optimizer(second)
            loss = (self.adversarial_loss(real, True) + self.adversarial_loss(made.detach(), False)) / 2
            self.manual_backward(loss)
            second.step()
            second.zero_grad()
            self.untoggle_optimizer(second)
            self.log("d_loss", loss)

        def configure_optimizers(self) -> Any:
            networks = self.generator, self.discriminator
            return [torch.optim.Adam(network.parameters(), lr=2e-4) for network in networks], []

        def on_train_epoch_end(self) -> None:
            with torch.no_grad():
                grid = torchvision.utils.make_grid(self(torch.randn(4, self.latent_dim)))
            for logger in self.loggers:
                logger.experiment.add_image("generated_images", grid, self.current_epoch)

    return Case(GAN(), Oracle(), image_batches(*_DIGITS, count=10)[0])


@client(_EXAMPLES, "a frozen backbone, one score, labels of 0 and 1, staged unfreezing")
def computer_vision_fine_tuning() -> Case:
    class MilestonesFinetuning(L.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(modules=pl_module.feature_extractor)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(modules=pl_module.feature_extractor[-2:], optimizer=optimizer)

    class TransferLearningModel(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            backbone = torchvision.models.resnet18(weights=None)
            self.feature_extractor = nn.Sequential(*list(backbone.children())[:-1])
            self.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 32), nn.Linear(32, 1))
            self.valid_acc = torchmetrics.classification.Accuracy(task="binary")

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.feature_extractor(x).squeeze(-1).squeeze(-1))

        def loss(self, y_logits: Tensor, y: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(y_logits, y.view((-1, 1)).type_as(y_logits))

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return self.loss(self(x), y)

        def validation_step(self, batch: Any, _: int) -> None:
            x, y = batch
            y_logits = self(x)
            self.log("val_loss", self.loss(y_logits, y))
            self.log("val_acc", self.valid_acc(torch.sigmoid(y_logits), y.view((-1, 1)).int()))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([value for value in self.parameters() if value.requires_grad], lr=1e-3)

    names = ("cats", "dogs")
    data = image_batches(count=2, classes=list(names))
    options = {"callbacks": [MilestonesFinetuning()], "max_epochs": 2}
    return Case(TransferLearningModel(), by_position(names=names), *data, options=options)


@client(_EXAMPLES, "a torchvision architecture by name, top-1 and top-5 by torchmetrics, data module")
def imagenet() -> Case:
    class ImageNetLightningModel(Step):
        def __init__(self, arch: str = "resnet18") -> None:
            super().__init__()
            self.model = torchvision.models.get_model(arch, weights=None, num_classes=10)
            self.eval_acc5 = torchmetrics.classification.Accuracy(task="multiclass", num_classes=10, top_k=5)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def loss(self, batch: Any) -> Tensor:
            images, target = batch
            return F.cross_entropy(self.model(images), target)

        def validation_step(self, batch: Any, _: int) -> None:
            images, target = batch
            output = self.model(images)
            self.log("val_loss", F.cross_entropy(output, target))
            self.log("val_acc5", self.eval_acc5(output, target))

        test_step = validation_step

    train, val = image_batches(3, 64, 64, count=10)
    return Case(ImageNetLightningModel(), by_position(), train, val, datamodule=Data(train, val))


@client(_EXAMPLES, "a U-Net, 19 classes, 250 is ignored")
def semantic_segmentation() -> Case:
    class UNet(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
            self.out = nn.Conv2d(16, num_classes, 1)

        def forward(self, x: Tensor) -> Tensor:
            down = self.down(x)
            return self.out(torch.cat([down, self.up(self.deep(down))], 1))

    class SegModel(Step):
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet(19)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def loss(self, batch: Any) -> Tensor:
            img, mask = batch
            return F.cross_entropy(self(img.float()), mask.long(), ignore_index=250)

    masks = torch.randint(0, 19, (8, 32, 32), generator=torch.Generator().manual_seed(3))
    masks[:, :4] = 250
    oracle = Oracle("masks", lambda module, batch: module(batch[0]), lambda batch: batch[1])
    return Case(SegModel(), oracle, batches(images(), masks), batches(images(seed=1), masks))
