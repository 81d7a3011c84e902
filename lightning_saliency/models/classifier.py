"""`CAMClassifier`: a LightningModule that trains a CAM model and predicts class maps and boxes."""

from __future__ import annotations

from enum import Enum
from functools import partial
from os import PathLike
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import AUROC, Accuracy

from lightning_saliency._checks import check_choice, check_count, check_number, optional
from lightning_saliency._lightning import BaseFinetuning, Callback, LightningModule, Trainer
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.data import find_images
from lightning_saliency.metrics import heatmaps_to_boxes
from lightning_saliency.models.head import Pooling, gap_model

Task: TypeAlias = Literal["multiclass", "multilabel"]
Metric: TypeAlias = Literal["accuracy", "auroc"]
Schedule: TypeAlias = Literal["constant", "cosine"]


class CAMPrediction(NamedTuple):
    """What `CAMClassifier.predict_step` returns, from one forward.

    Attributes:
        logits: `(N, K)`.
        classes: The class with the largest logit, `(N,)` int64: the one that the heatmaps and boxes show.
        class_maps: The maps of all classes, `(N, K, h, w)`, signed.
        heatmaps: `(N, 1, H, W)` in [0, 1], at the images' size.
        boxes: `(N, 4)`, torchvision's (x1, y1, x2, y2) in pixels; zeros where there is none.
        found: Whether there is a box, `(N,)` bool: a map without any positive value has none.
    """

    logits: Tensor
    classes: Tensor
    class_maps: Tensor
    heatmaps: Tensor
    boxes: Tensor
    found: Tensor


class CAMClassifier(LightningModule):
    """Trains a backbone as a CAM model (Zhou et al. 2016), whose class maps and boxes need no gradient.

    The model is `gap_model(backbone, num_classes, ...)`. A batch is a pair of images `(N, C, H, W)` and labels: classes
    `(N,)`, or for `task="multilabel"` zeros and ones `(N, K)`; further entries are ignored.

    Logged: `train_loss`, `val_loss`, `test_loss`, and `val_<metric>`, `test_<metric>`.

    Args:
        num_classes: K.
        backbone: The name of a torchvision classification model, or any module that torch.fx can trace. A module
            must be passed to `load_from_checkpoint(path, backbone=...)` too.
        weights: For a name, torchvision's weights, such as "DEFAULT", or a file with the model's weights, whose
            classifier does not matter; none for random ones.
        resolution: Height and width of the class maps at `image_size`. Default: the paper's for alexnet, vgg16 and
            googlenet; else that of the last convolutional map.
        hidden: Units of the 3×3 convolution before the pooling; none for no convolution.
        pooling: `avg` (the paper's GAP), `max` (GMP) or `lse` (log-sum-exp).
        in_channels: Channels of the images.
        image_size: Height and width of the images that the resolution is meant for.
        task: `multiclass`: one class per image, cross-entropy; `multilabel`: any number of them, binary cross-entropy.
        metric: `accuracy` (the fraction of correct predictions) or `auroc` (area under the ROC curve, mean of classes).
        learning_rate: The learning rate of the new layers.
        backbone_learning_rate: The learning rate of the backbone; by default a tenth of `learning_rate` if it has
            pretrained weights, else the same.
        weight_decay: The weight decay of AdamW, for all layers.
        schedule: `cosine`: from these learning rates to 0 over the training; `constant`.
        unfreeze_at_epoch: The epoch until which the backbone is frozen, with its batch norms' statistics; 0: it is
            never frozen. For training in one process only.
        box_threshold: The fraction of a heatmap's maximum that a box is drawn around.

    Raises:
        TypeError: An option is of the wrong kind.
        ValueError: An option's value does not fit, or the backbone has no convolutional map (of this resolution).

    Example:
        >>> model = CAMClassifier(num_classes=5, backbone="resnet18", resolution=14, hidden=64)
        >>> model.eval().predict_step(torch.randn(2, 3, 224, 224), 0).class_maps.shape
        torch.Size([2, 5, 14, 14])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str | Any = "resnet18",  # typed as a module, a command line's help lists all of torch.nn
        *,
        weights: str | PathLike[str] | None = None,
        resolution: int | None = None,
        hidden: int | None = 1024,
        pooling: Pooling = "avg",
        in_channels: int = 3,
        image_size: int = 224,
        task: Task = "multiclass",
        metric: Metric = "accuracy",
        learning_rate: float = 3e-4,
        backbone_learning_rate: float | None = None,
        weight_decay: float = 0.01,
        schedule: Schedule = "cosine",
        unfreeze_at_epoch: int = 0,
        box_threshold: float = 0.2,
    ) -> None:
        super().__init__()
        check_choice("task", task, get_args(Task))
        check_choice("metric", metric, get_args(Metric))
        check_choice("schedule", schedule, get_args(Schedule))
        check_rate = partial(check_number, interval="[0, inf)")
        # the plain values, which `save_hyperparameters` finds here, and checkpoints can hold
        num_classes = check_count("num_classes", num_classes, least=2)
        resolution = optional(check_count)("resolution", resolution)
        hidden = optional(check_count)("hidden", hidden)
        in_channels = check_count("in_channels", in_channels)
        image_size = check_count("image_size", image_size)
        unfreeze_at_epoch = check_count("unfreeze_at_epoch", unfreeze_at_epoch, least=0)
        learning_rate = check_rate("learning_rate", learning_rate)
        backbone_learning_rate = optional(check_rate)("backbone_learning_rate", backbone_learning_rate)
        weight_decay = check_rate("weight_decay", weight_decay)
        box_threshold = check_number("box_threshold", box_threshold, "[0, 1)")
        weights = str(weights) if isinstance(weights, PathLike | Enum) else weights
        # a module's weights are in the checkpoint; the module itself is passed when that is loaded
        self.save_hyperparameters(ignore=["backbone"] if isinstance(backbone, nn.Module) else [])
        self.model = gap_model(
            backbone,
            num_classes,
            weights=weights,
            resolution=resolution,
            hidden=hidden,
            pooling=pooling,
            in_channels=in_channels,
            image_size=image_size,
        )
        self.task = task
        self.learning_rate = learning_rate
        has_weights = weights is not None or isinstance(backbone, nn.Module)
        self.backbone_learning_rate = (
            backbone_learning_rate if backbone_learning_rate is not None else learning_rate / (10 if has_weights else 1)
        )
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.box_threshold = box_threshold
        self.metric_name = metric
        metric_class: Any = AUROC if metric == "auroc" else Accuracy
        averaging = {"average": "macro" if metric == "auroc" else "micro"}
        self.metrics = nn.ModuleDict(
            {
                stage: metric_class(task=task, num_classes=num_classes, num_labels=num_classes, **averaging)
                for stage in ("val", "test")
            }
        )

    @property
    def backbone(self) -> nn.Module:
        """The backbone up to its cut, under the name that Lightning's finetuning callbacks expect."""
        return self.model.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, K)` of images `(N, C, H, W)`."""
        logits: Tensor = self.model(images)
        return logits

    def class_maps(self, images: Tensor) -> Tensor:
        """Return the class activation map of each class `(N, K, h, w)`, signed, from one forward without a gradient."""
        return self.model.class_maps(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it as `train_loss`."""
        images, labels = _pair(batch)
        loss = self._loss(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log `val_loss` and the metric."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log `test_loss` and the metric."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> CAMPrediction:
        """Return class maps, heatmaps and boxes from one forward; the batch needs no labels."""
        images = find_images(batch)
        features = self.model.features(images)
        logits, class_maps = self.model.head(features), self.model.head.class_maps(features)
        classes = logits.argmax(1)
        heatmaps = to_heatmaps(class_maps[torch.arange(len(classes)), classes, None], images.shape[2:])
        boxes, found = heatmaps_to_boxes(heatmaps, self.box_threshold)
        return CAMPrediction(logits, classes, class_maps, heatmaps, boxes, found)

    def configure_optimizers(self) -> Any:
        """Return AdamW with a parameter group for the new layers and one for the backbone, and their schedule."""
        new_parameters = [*self.model.neck.parameters(), *self.model.head.parameters()]
        groups = [
            {"params": new_parameters, "lr": self.learning_rate, "name": "head"},
            {"params": list(self.backbone.parameters()), "lr": self.backbone_learning_rate, "name": "backbone"},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "Expected `schedule` to be 'constant' for a training without an end, got 'cosine': pass "
                "`CAMClassifier(schedule='constant')`, or `Trainer(max_epochs=...)`."
            )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that keeps the backbone frozen at first, if that is asked for."""
        return [_BackboneFreezing(self.unfreeze_at_epoch)] if self.unfreeze_at_epoch else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set `weights` to None: the checkpoint holds the weights, so loading it needs no file of them."""
        checkpoint["hyper_parameters"]["weights"] = None

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels)

    def _evaluate(self, stage: str, batch: Any) -> None:
        images, labels = _pair(batch)
        logits = self(images)
        metric: Any = self.metrics[stage]
        metric(logits, labels.long())
        self.log(f"{stage}_loss", self._loss(logits, labels), prog_bar=True)
        self.log(f"{stage}_{self.metric_name}", metric, prog_bar=True)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the images and labels, the first two entries of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise TypeError(
            f"Expected a batch to be (images, labels, ...), got a {type(batch).__name__}. Override `training_step` and "
            "`validation_step` to take another kind apart, and pass the pair on."
        )
    return batch[0], batch[1]


class _BackboneFreezing(BaseFinetuning):
    """Keeps the backbone frozen until an epoch.

    The optimizer holds the backbone's parameters from the start, and skips them while they have no gradient. So its
    groups and those of a scheduler never change, and a run can be resumed before and after that epoch.
    """

    def __init__(self, unfreeze_at_epoch: int) -> None:
        super().__init__()
        self.unfreeze_at_epoch = unfreeze_at_epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.world_size > 1:
            # DDP never synchronizes parameters that are frozen when it wraps the module: the processes would diverge
            raise ValueError(
                f"Expected `unfreeze_at_epoch` to be 0 with several processes, got {self.unfreeze_at_epoch} with "
                f"{trainer.world_size}: train on one device, or without freezing."
            )
        super().setup(trainer, pl_module, stage)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        if epoch >= self.unfreeze_at_epoch:
            self.make_trainable(pl_module.backbone)
