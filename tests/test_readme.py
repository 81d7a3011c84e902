import re
from pathlib import Path

import pytest
import torch

from lightning_saliency import METHODS, SaliencyCallback, explain

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_every_python_block_of_the_readme_runs_when_pasted(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    methods = dict(METHODS)
    scope: dict = {}
    try:
        exec(block, scope)
        if "METHODS[" in block:
            model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2))
            assert explain(model, torch.rand(1, 3, 8, 8), methods="mean_activation").attributions
    finally:
        METHODS.clear()
        METHODS.update(methods)


def test_the_first_block_is_ten_lines_and_logs_pictures(tmp_path, monkeypatch):
    assert len(BLOCKS[0].strip().splitlines()) == 10


def test_the_readme_lists_every_method_and_every_option():
    for method in METHODS:
        assert f"| `{method}` |" in README
    options = SaliencyCallback.__init__.__annotations__.keys() - {"return"}
    for option in options:
        assert re.search(rf"^\|.*`{option}`.*\|", README, re.MULTILINE), option
