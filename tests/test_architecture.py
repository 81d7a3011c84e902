"""The house of DESIGN.md: which file may import which, and what importing the package does."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_saliency

PACKAGE = Path(lightning_saliency.__file__).parent

# Each file's own line of the house: what it may import of the package. Files that are still to come are in it too.
MAY_IMPORT = {
    "targets": set(),
    "layers": set(),
    "evidence": {"targets", "layers"},
    "attribution": {"evidence"},
    "explain": {"attribution", "evidence", "layers", "targets"},
    "optimize": {"evidence", "targets"},
    "sources": set(),
    "heads": {"evidence", "layers", "sources", "targets"},
    "_compat": set(),
    "classifier": {"attribution", "heads", "metrics", "batches", "targets", "_compat"},
    "_checks": set(),
    "metrics": {"attribution", "explain", "_checks"},
    "render": set(),
    "record": set(),
    "batches": {"metrics"},
    "datasets": set(),
    "samples": {"batches"},
    "checks": set(),
    "pictures": {"attribution", "datasets", "explain", "render", "samples"},
    "faithfulness": {"attribution", "evidence", "explain", "metrics", "targets"},
    "sanity": {"attribution", "evidence", "explain", "metrics", "targets"},
    "film": {"attribution", "checks", "pictures", "record", "render", "targets"},
    "figures": {"attribution", "explain", "pictures", "render"},
    "loggers": {"render"},
    "audit": set(),
    "guard": {"audit", "_compat"},
    "budget": set(),
    "probe": {"attribution", "evidence", "explain", "faithfulness", "layers", "sanity", "samples", "targets"}
    | {"_compat"},
    "dashboard": {"record"},
}
MAY_IMPORT["callbacks"] = set(MAY_IMPORT) - {"dashboard"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT) - {"dashboard"}
MAY_IMPORT["cli"] = {"attribution", "explain", "figures", "pictures", "samples", "sources"}
MAY_IMPORT["__main__"] = {"cli"}

# Who may know what is outside; a library that is not listed here or in STANDARD is known to nobody.
STANDARD = {"torch", "numpy"}
KNOWN_TO = {
    "pytorch_lightning": {"_compat"},
    "lightning": {"_compat"},
    "torchmetrics": {"classifier", "metrics"},
    "scipy": {"metrics"},
    "torchvision": {"render", "heads", "metrics", "optimize", "sources", "cli"},
    "tqdm": {"evidence", "cli"},
    "matplotlib": {"render", "figures"},
    "PIL": {"render", "loggers", "cli"},
    "tensorboard": {"loggers", "record", "dashboard"},
    "torch.utils.tensorboard": {"loggers", "record", "dashboard"},
}


def files():
    """Each file, and the room that it belongs to: its own name, or the folder's."""
    found = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sorted(PACKAGE.rglob("*.py"))}
    return [pytest.param(path, room, id=path.stem) for path, room in found.items()]


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
def test_a_file_imports_of_the_package_what_its_line_allows(path, room):
    assert room in MAY_IMPORT, f"{path.name} has no place in the house: add it here and to the design"
    own = {name.split(".")[1] for name in imports(path) if name.startswith("lightning_saliency.")}
    # a name imported from the package itself, not from one of its files, would come through the public face
    rooms = {name for name in own if name in MAY_IMPORT or (PACKAGE / f"{name}.py").exists()}
    assert own == rooms, f"{path.name} imports {own - rooms} from the public face"
    assert rooms - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize(("path", "room"), files())
def test_a_file_knows_only_the_libraries_that_are_its_business(path, room):
    for name in imports(path):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top == "lightning_saliency":
            continue
        assert not name.startswith(("matplotlib.pyplot", "matplotlib.pylab")), f"{path.name}: pyplot is global state"
        known = [library for library in KNOWN_TO if name == library or name.startswith(f"{library}.")]
        assert known or top in STANDARD, f"{path.name} imports {name}, which is known to nobody"
        for library in known:
            assert room in KNOWN_TO[library], f"{path.name} must not know {library}"


@pytest.mark.parametrize("function", ["register_forward_hook", "register_forward_pre_hook", "grad", "set_rng_state"])
def test_hooks_and_autograd_are_in_the_evidence_only(function):
    users = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == function:
                users.add(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
    assert users <= {"evidence", "optimize"}


def test_the_public_names_exist_and_are_sorted_and_documented():
    names = lightning_saliency.__all__
    assert len(set(names)) == len(names)
    for name in names:
        thing = getattr(lightning_saliency, name)
        assert thing.__doc__, name
        if callable(thing):
            assert thing.__module__.startswith("lightning_saliency."), name
    assert lightning_saliency.__version__


IMPORT = """
import os, sys, threading
import torch, torchvision, pytorch_lightning, matplotlib, PIL.Image  # what they open is theirs
threads, files = threading.enumerate(), set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
grad, rng = torch.is_grad_enabled(), torch.get_rng_state()
knew_pyplot = "matplotlib.pyplot" in sys.modules  # torchmetrics imports it
import lightning_saliency
assert ("matplotlib.pyplot" in sys.modules) == knew_pyplot, "pyplot was imported"
assert not knew_pyplot or not sys.modules["matplotlib.pyplot"].get_fignums(), "a figure was made"
assert threading.enumerate() == threads, "a thread was started"
assert not files or len(os.listdir("/proc/self/fd")) <= len(files), "a file was left open"
assert torch.is_grad_enabled() == grad and torch.equal(torch.get_rng_state(), rng)
"""


def test_importing_the_package_opens_and_starts_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
