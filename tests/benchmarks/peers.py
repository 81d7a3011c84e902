"""The libraries that people use today, as their own documentation uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import InputXGradient, LayerGradCam, Saliency
from captum.attr import visualization as captum_pictures
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_lightning import Callback
from torch import Tensor, nn
from torchcam import methods as torchcam
from torchcam.utils import overlay_mask
from torchvision.transforms.v2.functional import to_pil_image


def grad_cam_library(model: nn.Module, images: Tensor, labels: Tensor, layer: str) -> dict[str, Callable[[], Any]]:
    """Return the methods of pytorch-grad-cam, each a call of its own, as it wants it."""
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    kinds = {
        "grad_cam": GradCAM,
        "grad_cam_plus_plus": GradCAMPlusPlus,
        "hires_cam": HiResCAM,
        "layer_cam": LayerCAM,
        "xgrad_cam": XGradCAM,
    }

    def run(kind: Any) -> Callable[[], Any]:
        def call() -> None:
            with kind(model=model, target_layers=[model.get_submodule(layer)]) as method:
                method(input_tensor=images, targets=targets)

        return call

    return {name: run(kind) for name, kind in kinds.items()}


def captum_library(model: nn.Module, images: Tensor, labels: Tensor, layer: str) -> dict[str, Callable[[], Any]]:
    """Return the methods of captum, each a call of its own."""
    leaf = images.detach().clone().requires_grad_()
    return {
        "grad_cam": lambda: LayerGradCam(model, model.get_submodule(layer)).attribute(leaf, target=labels),
        "saliency": lambda: Saliency(model).attribute(leaf, target=labels),
        "input_x_gradient": lambda: InputXGradient(model).attribute(leaf, target=labels),
    }


def torchcam_library(model: nn.Module, images: Tensor, labels: Tensor, layer: str) -> dict[str, Callable[[], Any]]:
    """Return the methods of torchcam, each a call of its own."""
    kinds = {
        "grad_cam": torchcam.GradCAM,
        "grad_cam_plus_plus": torchcam.GradCAMpp,
        "layer_cam": torchcam.LayerCAM,
        "xgrad_cam": torchcam.XGradCAM,
    }

    def run(kind: Any) -> Callable[[], Any]:
        def call() -> None:
            with kind(model, layer) as method:
                method(labels.tolist(), model(images.detach().clone().requires_grad_()))

        return call

    return {name: run(kind) for name, kind in kinds.items()}


class PastedCallback(Callback):
    """What people paste today: one library's Grad-CAM and Grad-CAM++, another's saliency, overlays in a loop."""

    def __init__(self, images: Tensor, labels: Tensor, pictures: np.ndarray[Any, Any], layer: str) -> None:
        self.images, self.labels, self.pictures, self.layer = images, labels, pictures, layer

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Explain the images and show them."""
        if trainer.sanity_checking:
            return
        model = pl_module.model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            maps = pasted_maps(model, self.images, self.labels, self.layer)
        for name, heatmaps in maps.items():
            for at, picture in enumerate(overlays(self.pictures, heatmaps)):
                trainer.logger.experiment.add_image(f"{name}/{at}", picture, trainer.global_step, dataformats="HWC")


def pasted_maps(model: nn.Module, images: Tensor, labels: Tensor, layer: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return three methods' heatmaps `(N, H, W)`, in the way their libraries give them."""
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    found = {}
    for name, kind in {"grad_cam": GradCAM, "grad_cam_plus_plus": GradCAMPlusPlus}.items():
        with kind(model=model, target_layers=[model.get_submodule(layer)]) as method:
            found[name] = method(input_tensor=images, targets=targets)
    leaf = images.detach().clone().requires_grad_()
    saliency = Saliency(model).attribute(leaf, target=labels).amax(1)
    found["saliency"] = (saliency / saliency.amax((1, 2), keepdim=True)).numpy()
    return found


def overlays(pictures: np.ndarray[Any, Any], heatmaps: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return the overlays of pytorch-grad-cam, one by one."""
    return [
        show_cam_on_image(picture, heatmap, use_rgb=True) for picture, heatmap in zip(pictures, heatmaps, strict=True)
    ]


def torchcam_overlays(pictures: np.ndarray[Any, Any], heatmaps: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return the overlays of torchcam, one by one."""
    return [
        np.asarray(
            overlay_mask(to_pil_image((picture * 255).astype(np.uint8)), to_pil_image(heatmap, mode="F"), alpha=0.5)
        )
        for picture, heatmap in zip(pictures, heatmaps, strict=True)
    ]


def captum_figures(pictures: np.ndarray[Any, Any], heatmaps: np.ndarray[Any, Any]) -> list[Any]:
    """Return the figures of captum, one by one."""
    return [
        captum_pictures.visualize_image_attr(
            heatmap[:, :, None], picture, method="blended_heat_map", sign="positive", use_pyplot=False
        )[0]
        for picture, heatmap in zip(pictures, heatmaps, strict=True)
    ]
