"""The screenshots of the documentation, which the script that makes its pictures takes."""

import importlib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("chromium")
def test_the_screenshots_of_the_documentation_are_taken(tmp_path, monkeypatch):
    if not any("lightning_saliency" in found.value for found in entry_points(group="tensorboard_plugins")):
        pytest.skip("needs the package to be installed, so that TensorBoard finds its tab")
    monkeypatch.syspath_prepend(ROOT / "examples")
    script = importlib.import_module("make_pictures")
    script.main(["tab", "--small", "--output", str(tmp_path)])
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in (ROOT / "docs/pictures").glob("tab*.jpg")}
    for name in made:
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 1400
            assert (tmp_path / name).stat().st_size < script.LARGEST_FILE
