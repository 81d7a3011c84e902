"""The script that makes the pictures of the documentation, and the notebook."""

import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples/two_digits.ipynb"

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("make_pictures")


def outputs(path):
    """What the notebook's cells have shown, by kind."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return shown, [output for output in shown if "image/jpeg" in output.get("data", {})]


@pytest.mark.parametrize("name", ["digits", "pairs", "photographs", "two_objects"])
def test_the_pictures_are_made_from_runs(script, name, tmp_path, capsys):
    script.main([name, "--small", "--output", str(tmp_path)])
    made = sorted(tmp_path.iterdir())
    assert [path.stem for path in made] == {"digits": ["filmstrip", "overview"]}.get(name, [name])
    for path in made:
        assert (ROOT / "docs/pictures" / path.name).exists()
        assert path.stat().st_size < script.LARGEST_FILE
        assert path.name in capsys.readouterr().out or name == "digits"
        with Image.open(path) as picture:
            assert 300 < picture.width <= script.LARGEST_WIDTH


def test_the_notebook_runs(script, tmp_path):
    script.main(["notebook", "--small", "--output", str(tmp_path)])
    shown, pictures = outputs(tmp_path / NOTEBOOK.name)
    assert not [output for output in shown if output["output_type"] == "error"]
    assert len(pictures) == 3
    assert any("energy_in_box" in "".join(output.get("text", "")) for output in shown)


def test_the_notebook_shows_its_pictures_unrun():
    shown, pictures = outputs(NOTEBOOK)
    assert len(pictures) == 3
    assert NOTEBOOK.stat().st_size < 300_000
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in shown)
    assert "site-packages" not in NOTEBOOK.read_text(encoding="utf-8")  # no path of the machine that ran it


def test_a_picture_that_there_is_not_is_refused(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["nothing"])
    names = "digits, pairs, photographs, two_objects, tab, notebook"
    assert f"expected names out of {names}, got nothing" in capsys.readouterr().err
