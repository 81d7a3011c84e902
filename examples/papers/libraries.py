"""Heatmaps of captum, grad-cam and torchcam, as their own documentation makes them, where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Maps: TypeAlias = dict[str, Tensor]
"""Heatmaps in [0, 1] `(N, 1, H, W)`, by the name of what made them."""
Source: TypeAlias = Callable[[Tensor, Tensor], Maps]
"""From images `(N, 3, H, W)` and the classes `(N,)` that are explained to heatmaps."""

GRAD_CAM = {
    "Grad-CAM": "GradCAM",
    "Grad-CAM++": "GradCAMPlusPlus",
    "HiResCAM": "HiResCAM",
    "LayerCAM": "LayerCAM",
    "XGrad-CAM": "XGradCAM",
    "Eigen-CAM": "EigenCAM",
}
TORCHCAM = {"Grad-CAM": "GradCAM", "Grad-CAM++": "GradCAMpp", "LayerCAM": "LayerCAM", "XGrad-CAM": "XGradCAM"}


CAPTUM = ("Grad-CAM", "Saliency")


def installed_libraries(model: nn.Module, layer: str, titles: Collection[str]) -> list[Source]:
    """Return the libraries that are installed, each made for a model, its target layer and the methods of ours."""
    makers: Mapping[str, Callable[[nn.Module, str, Collection[str]], Source]] = {
        "pytorch_grad_cam": grad_cam_library,
        "torchcam": torchcam_library,
        "captum": captum_library,
    }
    return [make(model, layer, titles) for name, make in makers.items() if find_spec(name) is not None]


def grad_cam_library(model: nn.Module, layer: str, titles: Collection[str]) -> Source:
    """Return the methods of grad-cam, whose maps come at the images' size, their minimum 0 and their maximum 1."""
    import pytorch_grad_cam as library
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kinds = {title: getattr(library, name) for title, name in GRAD_CAM.items() if title in titles}

    def run(images: Tensor, classes: Tensor) -> Maps:
        targets = [ClassifierOutputTarget(index) for index in classes.tolist()]
        leaf = images.detach().clone().requires_grad_()  # the network's parameters need no gradient
        maps = {}
        for title, kind in kinds.items():
            with kind(model=model, target_layers=[model.get_submodule(layer)]) as method:
                maps[f"{title}, grad-cam"] = torch.from_numpy(method(input_tensor=leaf, targets=targets))[:, None]
        return maps

    return run


def torchcam_library(model: nn.Module, layer: str, titles: Collection[str]) -> Source:
    """Return the methods of torchcam, whose maps come at the layer's size, their minimum 0 and their maximum 1."""
    from torchcam import methods as library

    kinds = {title: getattr(library, name) for title, name in TORCHCAM.items() if title in titles}

    def run(images: Tensor, classes: Tensor) -> Maps:
        maps = {}
        for title, kind in kinds.items():
            with kind(model, layer) as method:
                (cams,) = method(classes.tolist(), model(images.detach().clone().requires_grad_()))
            maps[f"{title}, torchcam"] = resized(cams.detach()[:, None], images)
        return maps

    return run


def captum_library(model: nn.Module, layer: str, titles: Collection[str]) -> Source:
    """Return Grad-CAM (with the paper's ReLU, which is an option there) and saliency of captum."""
    from captum.attr import LayerGradCam, Saliency

    def grad_cam(images: Tensor, classes: Tensor) -> Tensor:
        method = LayerGradCam(model, model.get_submodule(layer))
        cams: Tensor = method.attribute(images, target=classes, relu_attributions=True)
        return cams

    def saliency(images: Tensor, classes: Tensor) -> Tensor:
        largest: Tensor = Saliency(model).attribute(images, target=classes).amax(1, keepdim=True)
        return largest

    kinds = {title: kind for title, kind in zip(CAPTUM, (grad_cam, saliency), strict=True) if title in titles}

    def run(images: Tensor, classes: Tensor) -> Maps:
        leaf = images.detach().clone().requires_grad_()
        maps = {}
        for title, kind in kinds.items():
            raw = kind(leaf, classes).detach()
            maps[f"{title}, captum"] = resized(raw / raw.amax((1, 2, 3), keepdim=True).clamp(min=1e-30), images)
        return maps

    return run


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """Return maps at the images' size; a map with a value that is not finite is blank, as with us."""
    maps = maps.where(maps.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), 0.0)
    return F.interpolate(maps.float(), images.shape[2:], mode="bilinear").clamp(0, 1)
