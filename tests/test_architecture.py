"""The house: which room may import which, who knows which library, and what importing the package does."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_saliency

PACKAGE = Path(lightning_saliency.__file__).parent

# Each room's own line of the house: what it may import of the package. Rooms that are still to come are in it too.
MAY_IMPORT = {
    "_checks": set(),
    "_names": {"_checks"},
    "_lightning": set(),
    "history": set(),
    "data": {"_checks"},
    "evidence": {"data", "_checks"},
    "attribution": {"evidence", "data", "_checks"},
    "gradient_ascent": {"evidence", "_checks"},
    "metrics": {"attribution", "evidence", "data", "_checks"},
    "models": {"evidence", "attribution", "metrics", "data", "_checks", "_names", "_lightning"},
    "visualization": {"attribution", "data", "history", "_checks", "_names"},
    "loggers": {"visualization", "_checks", "_names"},
    "dashboard": {"history"},
}
BELOW_CALLBACKS = set(MAY_IMPORT) - {"dashboard"}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["callbacks"] = BELOW_CALLBACKS
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set()  # lazily, by its stub

# Who may know what is outside; a library that is not listed here is known to nobody.
EVERYBODY_BUT_HISTORY = set(MAY_IMPORT) - {"history", "dashboard"}
KNOWN_TO = {
    "numpy": set(MAY_IMPORT),
    "torch": EVERYBODY_BUT_HISTORY,
    "lazy_loader": {"__init__", "dashboard"},
    "fsspec": {"history", "loggers"},
    "pytorch_lightning": {"_lightning"},
    "lightning": {"_lightning"},
    "torchmetrics": {"models", "metrics"},
    "scipy": {"metrics"},
    "torchvision": {"visualization", "models", "metrics", "data", "gradient_ascent", "cli"},
    "tqdm": {"evidence", "cli"},
    "matplotlib": {"visualization"},
    "PIL": {"data", "visualization", "loggers", "cli"},
    "tensorboard": {"loggers", "dashboard"},
    "werkzeug": {"dashboard"},  # TensorBoard's own: requests and what answers them
    "timm": {"models"},
    "transformers": {"models"},
    "safetensors": {"models"},
}
KNOWS_LIGHTNING = {"callbacks", "loggers", "models/classifier", "_lightning"}
HOOKS_AND_AUTOGRAD = ["register_forward_hook", "register_forward_pre_hook", "grad", "set_rng_state"]


def files():
    """Each file, and the room that it belongs to: its own name, or the folder's."""
    rooms = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sorted(PACKAGE.rglob("*.py"))}
    return [
        pytest.param(path, room, id=path.relative_to(PACKAGE).with_suffix("").as_posix())
        for path, room in rooms.items()
    ]


def imports(path):
    """All imported dotted names, also inside functions; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively: name the package"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_table_itself_goes_down_only():
    placed = set()
    while len(placed) < len(MAY_IMPORT):
        free = {room for room, below in MAY_IMPORT.items() if room not in placed and below <= placed}
        assert free, f"a circle among {set(MAY_IMPORT) - placed}"
        placed |= free


@pytest.mark.parametrize(("path", "room"), files())
def test_a_file_imports_of_the_package_what_its_room_allows(path, room):
    assert room in MAY_IMPORT, f"{path.name} has no place in the house: add it here and to the design"
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("lightning_saliency.")}
    # a name imported from the package itself, not from one of its rooms, would come through the public face
    assert rooms <= set(MAY_IMPORT), f"{path.name} imports {rooms - set(MAY_IMPORT)} from the public face"
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(("path", "room"), files())
def test_within_a_room_no_file_imports_in_a_circle(path, room):
    def below(file, seen):
        for name in imports(file):
            inner = PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py")
            if name.startswith(f"lightning_saliency.{room}.") and inner.is_file() and inner not in seen:
                seen.add(inner)
                below(inner, seen)
        return seen

    if path.name != "__init__.py":
        assert path not in below(path, set())


@pytest.mark.parametrize(("path", "room"), files())
def test_a_file_knows_only_the_libraries_that_are_its_business(path, room):
    for name in imports(path):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top == "lightning_saliency":
            within = path.relative_to(PACKAGE).with_suffix("").as_posix()
            knows = room in KNOWS_LIGHTNING or within in KNOWS_LIGHTNING
            assert knows or not name.startswith("lightning_saliency._lightning"), f"{within} must not know Lightning"
            continue
        assert not name.startswith(("matplotlib.pyplot", "matplotlib.pylab")), f"{path.name}: pyplot is global state"
        assert top in KNOWN_TO, f"{path.name} imports {name}, which is known to nobody"
        assert room in KNOWN_TO[top], f"{path.name} must not know {top}"


def test_only_an_explanation_and_a_record_ask_the_public_face_for_the_room_that_draws_them():
    """Imports go down; an explanation's pictures and a record's report are made by rooms above, loaded at the first."""
    askers = [path for path in PACKAGE.rglob("*.py") if "lightning_saliency" in imports(path)]
    below = sorted(path.relative_to(PACKAGE).as_posix() for path in askers if "callbacks" not in path.parts)
    assert below == ["attribution/explanation.py", "history/record.py"]
    for room, above in (("attribution", "visualization"), ("history", "dashboard")):
        done = run(f"import lightning_saliency.{room}, sys; assert 'lightning_saliency.{above}' not in sys.modules")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("function", HOOKS_AND_AUTOGRAD)
def test_hooks_and_autograd_are_in_the_evidence_only(function):
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == function:
                users.add(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    assert users <= {"evidence"}


def packages():
    return ["lightning_saliency", *(f"lightning_saliency.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))]


@pytest.mark.parametrize("package", packages())
def test_no_module_is_shadowed_by_a_function_of_its_name(package):
    module = importlib.import_module(package)
    for info in pkgutil.iter_modules(module.__path__):
        inner = importlib.import_module(f"{package}.{info.name}") if info.name != "__main__" else None
        assert inner is None or getattr(module, info.name) is inner, f"{package}.{info.name}"


@pytest.mark.parametrize("package", packages())
def test_the_public_names_exist_and_are_documented(package):
    module = importlib.import_module(package)
    names = module.__all__
    assert len(set(names)) == len(names)
    assert list(names) == sorted(names) or package != "lightning_saliency"
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
            assert thing.__module__.startswith("lightning_saliency."), name


def test_the_public_face_is_a_page():
    names = [name for name in lightning_saliency.__all__ if not inspect.ismodule(getattr(lightning_saliency, name))]
    assert 12 <= len(names) <= 20
    rooms = {path.stem for path in PACKAGE.iterdir() if path.stem[0] != "_" and path.suffix != ".typed"} - {"cli"}
    assert rooms == set(lightning_saliency.__all__) - set(names)
    assert lightning_saliency.__version__
    assert set(lightning_saliency.__all__) <= set(dir(lightning_saliency))


def run(code, *options, **environment):
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("module", ["lightning_saliency", "lightning_saliency.history", "lightning_saliency._checks"])
def test_what_needs_no_torch_imports_without_it(module):
    done = run(f"import {module}", "-X", "importtime")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert module in imported
    assert not imported & {"torch", "pytorch_lightning", "lightning", "torchvision", "matplotlib", "PIL", "tensorboard"}


IMPORT = """
import os, sys, threading
import torch, torchvision, pytorch_lightning, matplotlib, PIL.Image  # what they open is theirs
threads, files = threading.enumerate(), set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
grad, rng = torch.is_grad_enabled(), torch.get_rng_state()
knew_pyplot = "matplotlib.pyplot" in sys.modules  # torchmetrics imports it
import lightning_saliency
for name in lightning_saliency.__all__:
    getattr(lightning_saliency, name)
assert ("matplotlib.pyplot" in sys.modules) == knew_pyplot, "pyplot was imported"
assert not knew_pyplot or not sys.modules["matplotlib.pyplot"].get_fignums(), "a figure was made"
assert threading.enumerate() == threads, "a thread was started"
assert not files or len(os.listdir("/proc/self/fd")) <= len(files), "a file was left open"
assert torch.is_grad_enabled() == grad and torch.equal(torch.get_rng_state(), rng)
"""


def test_importing_the_package_opens_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(IMPORT)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
