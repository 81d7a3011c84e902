"""Models by name: of torchvision, timm and Hugging Face, or from a callable by its import path; with their weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from importlib import import_module
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any

import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from lightning_saliency._checks import shown
from lightning_saliency.models.errors import WrongArgumentError, describe_raised, user_code
from lightning_saliency.models.hubs import make_hugging_face_model, make_timm_model
from lightning_saliency.models.loaded import LoadedModel, Preprocessing, say_untrained
from lightning_saliency.models.weight_files import WeightFile, existing_file


def torchvision_model(name: str, weights: Any = None, **options: Any) -> nn.Module:
    """Return a classification model of torchvision, with a member of its enumeration of weights or None."""
    if weights is not None:
        known = len(weights.meta["categories"])
        if options.get("num_classes", known) != known:
            raise ValueError(f"Expected `num_classes` to be {known}, as of the weights, got {options['num_classes']}.")
        # torchvision unpickles the file without `weights_only`; one that was read with it once holds no code
        weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    # these two would spend a minute on their own initial values; torch's default ones do as well
    skip_slow_init = {"init_weights": False} if name in ("googlenet", "inception_v3") and weights is None else {}
    model: nn.Module = get_model(name, weights=weights, **skip_slow_init, **options)
    return model


def check_torchvision_name(name: str, argument: str) -> None:
    """Raise an error for a name that no classification model of torchvision has."""
    names = list_models(module=torchvision.models)
    if name not in names:
        nearest = ", ".join(get_close_matches(name, names, n=5) or names[:5])
        raise WrongArgumentError(
            f"Expected {argument} to name a classification model of torchvision, got {shown(name)}. Nearest: {nearest}."
        )


def find_torchvision_weights(name: str, weights: Any) -> Any:
    """Return the weights of a torchvision model, a member of its enumeration, by name; None if it has none such."""
    known = get_model_weights(name)
    if isinstance(weights, known):
        return weights
    return known.__members__.get(weights.removeprefix(f"{known.__name__}.")) if isinstance(weights, str) else None


def published_weights(name: str, path: Path) -> Any:
    """Return the member of a torchvision model's weights whose file this is, by its hash; None for another file.

    torchvision names its files by the first digits of their SHA-256, under which they are downloaded.
    """
    digest = sha256(path.read_bytes()).hexdigest()
    for member in get_model_weights(name):
        known = re.search(r"-([0-9a-f]{8,})\.\w+$", member.url)
        if known is not None and digest.startswith(known[1]):
            return member
    return None


def take_input_as_trained(model: Any, named: Any) -> None:
    """Set whether torchvision's GoogLeNet or Inception converts its input to its authors' normalization.

    With its own weights torchvision has it so, since these were trained on another normalization than that with which
    they are used; a file of anybody's training does not tell, and the input is taken as it is.

    Args:
        model: A model of torchvision, made without weights.
        named: The member of its weights that is to be loaded into it; None for another file.
    """
    if hasattr(model, "transform_input"):
        model.transform_input = named is not None
        if named is None:
            print(
                f"Input: taken as it is, since the file is none of torchvision's own. With those {type(model).__name__}"
                " converts its input (`transform_input=True`), and so does a model that was trained further from them.",
                file=sys.stderr,
            )


def load_model(
    source: str, weights: str | None, num_classes: int | None, *, size: int | None = None, unsafe: bool = False
) -> LoadedModel:
    """Return the model of a command line, with what belongs to it.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `hf:NAME` or `hf:FOLDER`, or `package.module:callable`.
        weights: The name of torchvision's weights, `DEFAULT` for those of timm or Hugging Face, or a file.
        num_classes: The number of classes that the model is made for; None for its own.
        size: The side of the images, to which those models of timm are fitted that are made for one.
        unsafe: Whether a file of weights may hold more than tensors and plain values, which runs the code in it.

    Raises:
        WrongArgumentError: There is no such model, it cannot be made, or the weights are not its own.
    """
    room, _, name = source.partition(":")
    if not room or not name:
        raise WrongArgumentError(
            f"Expected --model as torchvision:NAME, timm:NAME, hf:NAME or package.module:callable, got {source!r}."
        )
    if room == "torchvision":
        return _from_torchvision(name, weights, num_classes, unsafe)
    if room == "timm":
        return make_timm_model(name, weights, num_classes, size=size, unsafe=unsafe)
    if room == "hf":
        return make_hugging_face_model(name, weights, num_classes, unsafe=unsafe)
    return LoadedModel(_from_import(room, name, weights, num_classes, unsafe))


def _from_torchvision(name: str, weights: str | None, num_classes: int | None, unsafe: bool) -> LoadedModel:
    check_torchvision_name(name, "--model")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    classes = "" if num_classes is None else f" with --num-classes {num_classes}"
    making = user_code(f"--model torchvision:{name} to be made{classes}")
    if weights is None:
        say_untrained()
        with making:
            return LoadedModel(torchvision_model(name, **options))
    named = find_torchvision_weights(name, weights)
    if named is None:
        path = existing_file(weights, f"one of {', '.join(get_model_weights(name).__members__)}, or ")
        with making:
            model = torchvision_model(name, **options)
        remake = (lambda count: torchvision_model(name, num_classes=count)) if num_classes is None else None
        model = WeightFile.open(path, unsafe=unsafe).load_into(model, remake)
        published = published_weights(name, path)
        take_input_as_trained(model, published)
        if published is None:
            return LoadedModel(model)
        names = tuple(published.meta["categories"]) if num_classes in (None, len(published.meta["categories"])) else ()
        return LoadedModel(model, partial(_preset, published), names)
    try:
        model = torchvision_model(name, named, **options)
    except Exception as error:  # no connection, another number of classes, a damaged file
        raise WrongArgumentError(
            f"Expected torchvision's weights {named} for --weights {weights}, got {describe_raised(error)} (a file of "
            "weights can be given instead)."
        ) from error
    return LoadedModel(model, partial(_preset, named), tuple(named.meta["categories"]))


def _preset(weights: Any, size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None) -> Preprocessing:
    """Return the transform of torchvision's weights, with what the user sets in its place."""
    sizes = {"crop_size": size, "resize_size": size} if size else {}
    normalization = {"mean": mean, "std": std} if mean is not None else {}
    preset: Preprocessing = weights.transforms(**normalization, **sizes)
    return preset


def _from_import(module_name: str, name: str, weights: str | None, num_classes: int | None, unsafe: bool) -> nn.Module:
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    with user_code(f"--model to be {name} of {module_name}"):
        function = attrgetter(name)(import_module(module_name))
    file = None if weights is None else WeightFile.open(existing_file(weights), unsafe=unsafe)
    is_whole = file is not None and file.is_lightning_checkpoint
    load = getattr(function, "load_from_checkpoint", None) if is_whole else None
    if load is None or file is None:
        call = f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"
        with user_code(f"--model to be called as {call} of {module_name}"):
            model = function(**options)
    else:
        # older versions of Lightning have no such argument, and load all
        safety = {"weights_only": not unsafe} if "weights_only" in signature(load).parameters else {}
        with user_code("--weights to fit --model as the checkpoint's hyperparameters make it"):
            model = load(file.path, map_location="cpu", **safety, **options)
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise WrongArgumentError(f"Expected --model {module_name}:{name} to return a model, got {got}.")
    if file is None or load is not None:
        return model
    return file.load_into(model, (lambda count: function(num_classes=count)) if num_classes is None else None)
