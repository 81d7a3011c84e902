"""The documentation's code runs, its tables list all that there is, and its links lead somewhere."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pytorch_lightning.cli import LightningCLI
from recipes.table import MARK, all_tables
from tiny import TinyClassifier

from lightning_saliency import METHODS, SaliencyCallback
from lightning_saliency.callbacks import Execution, History, Metrics, Samples, Style
from lightning_saliency.loggers import LOGGER_KINDS
from lightning_saliency.metrics import METRICS, metrics_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(text, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def tables():
    """What a page adds to our tables is taken out again."""
    methods, metrics, kinds = dict(METHODS), dict(METRICS), list(LOGGER_KINDS)
    yield
    for table, rows in ((METHODS, methods), (METRICS, metrics)):
        table.clear()
        table.update(rows)
    LOGGER_KINDS[:] = kinds


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", blocks(README), ids=lambda block: block.splitlines()[0])
def test_every_python_block_of_the_readme_runs_when_pasted(block, tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # "in the project's folder"
    if "ClutteredDigits" in block:  # on fewer images
        demo = importlib.import_module("examples.cluttered_digits")
        monkeypatch.setattr(demo.ClutteredDigitsDataModule.__init__, "__defaults__", (100, 50, 50, 0))
    if "load_record" in block:  # of a run, such as the first block's
        exec(blocks(README)[0], {})
    exec(block, {})


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run_one_after_another(page, tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in blocks(page.read_text()):
        exec(block, scope)


def test_adding_a_method_a_metric_a_logger_and_an_output_is_shown():
    assert {"add_a_method", "add_a_metric", "add_a_logger", "add_an_output"} <= {page.stem for page in PAGES}
    for page in PAGES:
        if page.stem.startswith("add_"):
            assert blocks(page.read_text()), page.stem


def test_the_first_two_blocks_are_as_long_as_they_are_said_to_be():
    assert len(blocks(README)[0].strip().splitlines()) == 10
    assert len(blocks(README)[1].strip().splitlines()) == 6
    assert "CAMClassifier" in blocks(README)[1]


def test_the_readme_lists_every_method_and_every_option():
    for method in METHODS:
        assert f"| `{method}` |" in README
    options = SaliencyCallback.__init__.__annotations__.keys() - {"return"}
    assert len(options) <= 12
    for option in options:
        assert re.search(rf"^\|.*`{option}`.*\|", README, re.MULTILINE), option
    for group in (Samples, Style, Metrics, History, Execution):
        (table,) = (table for table in README.split("\n\n") if re.match(rf"\|.*`{group.__name__}\(\.\.\.\)`", table))
        for field in fields(group):
            assert re.search(rf"^\|[^|]*`{field.name}`[^|]*\|", table, re.MULTILINE), field.name


def test_the_readme_lists_every_metric_as_its_row_says():
    assert metrics_table() in README


@pytest.mark.filterwarnings("default")
def test_the_configuration_in_the_readme_builds_the_callback(tmp_path):
    (block,) = blocks(README, "yaml")
    config = yaml.safe_load(block)
    config["trainer"]["logger"] = False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        TinyClassifier, run=False, args=["--config", str(tmp_path / "config.yaml")], save_config_callback=None
    )
    (callback,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, SaliencyCallback))
    assert callback.samples == Samples(num=16, choose="per_class")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    text = page.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\((?!https?://)(.*?)\)", text):
        path, _, heading = link.partition("#")
        assert not path or (page.parent / path).exists(), link
        assert path or heading in headings, link


def test_the_page_of_recipes_lists_them_all():
    """`PYTHONPATH=tests python -m recipes` writes them."""
    assert (ROOT / "docs/untouched.md").read_text().split(MARK)[1] == f"\n{all_tables()}\n"


def test_the_table_of_costs_is_that_of_the_page_with_all_figures():
    mark = "<!-- the one table -->\n\n"
    of_readme, of_page = (
        text.partition(mark)[2].partition("\n\n")[0] for text in (README, (ROOT / "docs/performance.md").read_text())
    )
    assert of_readme.count("\n") > 5
    assert of_readme == of_page
