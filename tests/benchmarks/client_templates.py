"""Clients in the forms of Lightning's documentation and of its templates."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
import torchvision
from client_kinds import Case, Data, Oracle, Step, by_position, client, image_batches
from lightning.pytorch.demos.boring_classes import BoringDataModule, DemoModel
from torch import Tensor, nn

_DOCS = "Lightning: documentation"
_DIGITS = (1, 28, 28)


@client(_DOCS, "a frozen feature extractor, run in `eval` without gradients in `forward`")
def transfer_learning() -> Case:
    class ImagenetTransferLearning(Step):
        def __init__(self) -> None:
            super().__init__()
            backbone = torchvision.models.resnet18(weights=None)
            self.feature_extractor = nn.Sequential(*list(backbone.children())[:-1])
            self.feature_extractor.eval()
            self.classifier = nn.Linear(backbone.fc.in_features, 10)

        def forward(self, x: Tensor) -> Tensor:
            self.feature_extractor.eval()
            with torch.no_grad():
                representations = self.feature_extractor(x).flatten(1)
            return self.classifier(representations)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.cross_entropy(self(x), y)

    return Case(ImagenetTransferLearning(), by_position(), *image_batches(count=10))


@client(_DOCS, "LightningCLI's demo model: vectors, no images")
def cli_demo() -> Case:
    data = BoringDataModule()
    data.setup("fit")
    return Case(DemoModel(), Oracle(), val=data.val_dataloader(), datamodule=data, options={"limit_train_batches": 2})


@client("hydra template", "`net` and `criterion` from the config, an MLP with batch norm; torchmetrics as children")
def hydra_template() -> Case:
    class SimpleDenseNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32)]
            self.model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.view(x.size(0), -1))

    class MNISTLitModule(L.LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False, ignore=["net"])
            self.net = net
            self.criterion = nn.CrossEntropyLoss()
            self.val_acc = torchmetrics.classification.Accuracy(task="multiclass", num_classes=10)
            self.val_loss = torchmetrics.MeanMetric()
            self.val_acc_best = torchmetrics.MaxMetric()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def on_train_start(self) -> None:
            for metric in (self.val_loss, self.val_acc, self.val_acc_best):
                metric.reset()

        def model_step(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            x, y = batch
            logits = self.forward(x)
            return self.criterion(logits, y), torch.argmax(logits, dim=1), y

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.model_step(batch)[0]

        def validation_step(self, batch: Any, _: int) -> None:
            loss, predictions, targets = self.model_step(batch)
            self.val_loss(loss)
            self.val_acc(predictions, targets)
            self.log("val/loss", self.val_loss)
            self.log("val/acc", self.val_acc)

        def on_validation_epoch_end(self) -> None:
            self.val_acc_best(self.val_acc.compute())
            self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}

    train, val = image_batches(*_DIGITS, count=10)
    return Case(MNISTLitModule(SimpleDenseNet()), by_position(), train, val, datamodule=Data(train, val))


@client("Lightning: Fabric and PyTorch MNIST", "two convolutions, dropout, two linear layers, `log_softmax`")
def mnist_cnn() -> Case:
    class LitMNIST(Step):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, 1), nn.Conv2d(8, 16, 3, 1)
            self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
            self.fc1, self.fc2 = nn.Linear(2304, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
            return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            return F.nll_loss(self.forward(x), y)

    return Case(LitMNIST(), by_position(), *image_batches(*_DIGITS, count=10))
