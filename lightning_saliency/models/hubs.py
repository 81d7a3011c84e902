"""Models of timm and of Hugging Face, where these are installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_saliency._checks import shown
from lightning_saliency.models.errors import WrongArgumentError, describe_raised, user_code
from lightning_saliency.models.loaded import LoadedModel, Preprocessing, say_untrained
from lightning_saliency.models.weight_files import WeightFile, existing_file

_DEFAULT = "DEFAULT"


def make_timm_model(
    name: str, weights: str | None, num_classes: int | None, *, size: int | None = None, unsafe: bool = False
) -> LoadedModel:
    """Return a model of timm, with its own transform.

    Args:
        name: As `timm.create_model` takes it.
        weights: `DEFAULT` for timm's own, which are downloaded; a file; None for random ones.
        num_classes: The number of classes; None for the model's own.
        size: The side of the images. A model that is made for one size, as a ViT is by its position embeddings, is
            fitted to it once it has its weights.
        unsafe: See `load_model`.

    Raises:
        WrongArgumentError: timm is not installed or has no such model, or the weights are not its own.
    """
    with _installed("timm", f"--model timm:{name}"):
        import timm

    base = name.partition(".")[0]
    if "/" not in name and not timm.is_model(base):
        names = timm.list_models()
        nearest = ", ".join(get_close_matches(base, names, n=5) or names[:5])
        raise WrongArgumentError(f"Expected --model to name a model of timm, got {name!r}. Nearest: {nearest}.")

    def make(count: int | None, *, pretrained: bool = False) -> nn.Module:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, **({} if count is None else {"num_classes": count})
        )
        return model

    model: Any = _with_weights(make, f"timm:{name}", weights, num_classes, unsafe)
    if size is not None and hasattr(model, "set_input_size"):
        with user_code(f"--model timm:{name} to take images of --size {size}"):
            model.set_input_size(img_size=(size, size))
    return LoadedModel(model, partial(_timm_transform, model))


def _timm_transform(
    model: nn.Module, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    from timm.data import create_transform, resolve_model_data_config

    config = dict(resolve_model_data_config(model))
    if size is not None:
        config |= {"input_size": (3, size, size), "crop_pct": 1.0}
    if mean is not None and std is not None:
        config |= {"mean": tuple(mean), "std": tuple(std)}
    transform: Preprocessing = create_transform(**config, is_training=False)
    return transform


def make_hugging_face_model(
    name: str, weights: str | None, num_classes: int | None, *, unsafe: bool = False
) -> LoadedModel:
    """Return an image classifier of Hugging Face's transformers, with the transform of its image processor.

    Args:
        name: A folder that `save_pretrained` has written, the name of a model on the hub, which is downloaded, or a
            kind of model, `vit`, of that kind's usual size.
        weights: A file; None or `DEFAULT` for those in the folder or on the hub, of a kind for random ones.
        num_classes: The number of classes; None for the model's own.
        unsafe: See `load_model`.

    Raises:
        WrongArgumentError: transformers is not installed, there is no such model, or the weights are not its own.
    """
    with _installed("transformers", f"--model hf:{name}"):
        from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification

    is_kind = name in CONFIG_MAPPING and not Path(name).is_dir()
    with _reading(name):
        config = AutoConfig.for_model(name) if is_kind else AutoConfig.from_pretrained(name)

    def make(count: int | None, *, pretrained: bool = False) -> nn.Module:
        options = {} if count is None else {"num_labels": count}
        if pretrained:
            loaded: nn.Module = AutoModelForImageClassification.from_pretrained(name, **options)
            return loaded
        own = deepcopy(config)
        if count is not None:
            own.num_labels = count
        made: nn.Module = AutoModelForImageClassification.from_config(own)
        return made

    if weights in (None, _DEFAULT):
        weights = None if is_kind else _DEFAULT
    model = _with_weights(make, f"hf:{name}", weights, num_classes, unsafe)
    processor = None if is_kind else _processor(name)
    size = getattr(config, "image_size", None)
    return LoadedModel(
        model,
        None if processor is None else partial(_processed, processor),
        size=size if isinstance(size, int) else None,
    )


def _processor(name: str) -> Any:
    """Return a model's image processor, or None where it has none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):  # a folder without its description
        return None


def _processed(
    processor: Any, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocessing:
    options: dict[str, Any] = {}
    if size is not None:
        options |= {"size": {"height": size, "width": size}}
    if mean is not None and std is not None:
        options |= {"image_mean": list(mean), "image_std": list(std)}

    def transform(image: Any) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt", **options)["pixel_values"][0]
        return pixels

    return transform


def _with_weights(
    make: Callable[..., nn.Module], source: str, weights: str | None, num_classes: int | None, unsafe: bool
) -> nn.Module:
    """Return a model with its own weights, those of a file, or random ones."""
    if weights == _DEFAULT:
        try:
            return make(num_classes, pretrained=True)
        except Exception as error:  # no connection, a damaged file, another number of classes
            raise WrongArgumentError(
                f"Expected the weights of {source} to be there or to be downloaded, got {describe_raised(error)} (a "
                "file of weights can be given instead)."
            ) from error
    path = None if weights is None else existing_file(weights, f"{_DEFAULT}, or ")
    with user_code(f"--model {source} to be made"):
        model = make(num_classes)
    if path is None:
        say_untrained()
        return model
    return WeightFile.open(path, unsafe=unsafe).load_into(model, make if num_classes is None else None)


def _reading(name: str) -> AbstractContextManager[None]:
    return user_code(f"--model hf:{shown(name)} to be a folder with a model, one on the hub, or a kind of model as vit")


def _installed(package: str, what: str) -> AbstractContextManager[None]:
    """Return the context in which an optional package is imported, whose own imports may fail."""
    if find_spec(package) is None:
        raise WrongArgumentError(f"Expected the package {package} to be installed for {what}: `pip install {package}`.")
    return user_code(f"the package {package} to be importable for {what}")
