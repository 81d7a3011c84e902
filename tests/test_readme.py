import importlib
import re
from pathlib import Path

import pytest
import torch

from lightning_saliency import METHODS, SaliencyCallback, explain

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_every_python_block_of_the_readme_runs_when_pasted(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # "in the project's folder"
    if "ClutteredDigits" in block:  # on fewer images
        demo = importlib.import_module("examples.cluttered_digits")
        monkeypatch.setattr(demo.ClutteredDigitsDataModule.__init__, "__defaults__", (100, 50, 50, 0))
    methods = dict(METHODS)
    scope: dict = {}
    try:
        if "load_record" in block:  # of a run, such as the first block's
            exec(BLOCKS[0], {})
        exec(block, scope)
        if "METHODS[" in block:
            model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2))
            assert explain(model, torch.rand(1, 3, 8, 8), methods="mean_activation").attributions
    finally:
        METHODS.clear()
        METHODS.update(methods)


def test_the_first_two_blocks_are_as_long_as_they_are_said_to_be():
    assert len(BLOCKS[0].strip().splitlines()) == 10
    assert len(BLOCKS[1].strip().splitlines()) == 6
    assert "CAMClassifier" in BLOCKS[1]


def test_the_readme_lists_every_method_and_every_option():
    for method in METHODS:
        assert f"| `{method}` |" in README
    options = SaliencyCallback.__init__.__annotations__.keys() - {"return"}
    for option in options:
        assert re.search(rf"^\|.*`{option}`.*\|", README, re.MULTILINE), option


def test_the_table_of_costs_is_that_of_the_page_with_all_figures():
    mark = "<!-- the one table -->\n\n"
    of_readme, of_page = (
        text.partition(mark)[2].partition("\n\n")[0] for text in (README, (ROOT / "docs/performance.md").read_text())
    )
    assert of_readme.count("\n") > 5
    assert of_readme == of_page
