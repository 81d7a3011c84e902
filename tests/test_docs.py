"""The documentation's code runs, its tables list all that there is, its figures are those of its pages."""

import importlib
import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path

import option_tables
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from pytorch_lightning.cli import LightningCLI
from recipes.table import MARK, all_tables
from recording import make_look, make_writer
from tiny import TinyClassifier

import lightning_saliency
from lightning_saliency import METHODS, SaliencyCallback
from lightning_saliency.callbacks import Execution, History, Metrics, Samples, Style
from lightning_saliency.cli import main
from lightning_saliency.loggers import LOGGER_KINDS
from lightning_saliency.metrics import METRICS, metrics_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
ALL_TEXTS = TEXTS | {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.DOTALL | re.M
)


def blocks(text, language="python"):
    """The code of a page that runs: its blocks in a language, but for those with a mark that says why not."""
    return [
        found["code"] for found in BLOCK.finditer(text) if found["language"] == language and found["reason"] is None
    ]


def table_row(text, first):
    """The cells of a table's row after its first one."""
    (row,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


@pytest.fixture
def tables():
    """What a page adds to our tables is taken out again."""
    methods, metrics, kinds = dict(METHODS), dict(METRICS), list(LOGGER_KINDS)
    yield
    for table, rows in ((METHODS, methods), (METRICS, metrics)):
        table.clear()
        table.update(rows)
    LOGGER_KINDS[:] = kinds


# --- code


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", blocks(README), ids=range(len(blocks(README))))
def test_every_python_block_of_the_readme_runs_when_pasted(block, tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # "in the project's folder"
    if "ClutteredDigits" in block:  # on fewer images
        demo = importlib.import_module("examples.cluttered_digits")
        monkeypatch.setattr(demo.ClutteredDigitsDataModule.__init__, "__defaults__", (100, 50, 50, 0))
    exec(block.replace("(1797, (6000, 2))", "(1797, (200, 2))"), {})


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if blocks(text)])
def test_the_python_blocks_of_a_page_run_one_after_another(page, tmp_path, monkeypatch, tables):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in blocks(TEXTS[page]):
        exec(block, scope)


def test_the_first_blocks_are_as_long_as_they_are_said_to_be():
    ten, six = (next(block for block in blocks(README) if word in block) for word in ("load_digits", "ClutteredDigits"))
    assert len(ten.strip().splitlines()) == 10
    assert len(six.strip().splitlines()) == 6
    recipes = README.partition("## Recipes")[2].partition("\n## ")[0]
    assert all(3 <= len(block.strip().splitlines()) <= 7 for block in blocks(recipes))


@pytest.mark.parametrize("page", ALL_TEXTS)
def test_every_block_is_of_a_language_whose_blocks_are_run(page):
    opened = re.findall(r"^```", ALL_TEXTS[page], re.MULTILINE)
    found = list(BLOCK.finditer(ALL_TEXTS[page]))
    assert len(opened) == 2 * len(found)
    assert {block["language"] for block in found} <= {"python", "bash", "yaml", ""}  # "": what is printed


def commands(text):
    """The commands of a page's shell blocks, one by one, without the variables before them."""
    for block in blocks(text, "bash"):
        for command in re.split(r"\n|&&", block.replace("\\\n", " ")):
            words = shlex.split(command)
            while words and "=" in words[0]:
                del words[0]
            if words:
                yield words


@pytest.mark.parametrize("page", [name for name, text in ALL_TEXTS.items() if blocks(text, "bash")])
def test_the_commands_of_a_page_name_what_there_is(page):
    """`tests/test_examples.py` runs the examples, the test below our own command line, `.ci/run` the tools."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for program, *arguments in commands(ALL_TEXTS[page]):
        name = Path(program).name
        if name == "tensorboard":
            assert arguments[0] == "--logdir"
            assert arguments[2:] in ([], ["--samples_per_plugin", "images=500"])  # for the Saliency tab, for Images
        elif name == "pip":
            for extra in re.findall(r"\[([\w,]+)\]", arguments[-1]):
                assert all(re.search(rf"^{one} = \[", pyproject, re.MULTILINE) for one in extra.split(","))
        elif name in ("python", "python3") and arguments[0] == "-m":
            assert arguments[1] in ("venv", "pytest", "lightning_saliency") or importlib.util.find_spec(arguments[1])
            assert all((ROOT / path).exists() for path in arguments[2:] if path.startswith("tests/"))
        elif name == "python":
            assert (ROOT / arguments[0]).exists()
        elif name in ("ruff", "mypy", "zensical"):
            assert name in pyproject
        else:
            assert (ROOT / program).exists()


EXPLAINS, REPORTS = (
    [words for words in commands(TEXTS["docs/command_line.md"]) if words[3] == command]
    for command in ("explain", "report")
)


@pytest.mark.parametrize("words", EXPLAINS, ids=lambda words: words[5])
def test_the_command_line_runs_as_its_page_says(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cat.jpg", "a.jpg", "b.png", "photos/dog.jpg"):  # what the reader has
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "orange").save(name)
    Path("classes.txt").write_text("\n".join("abcdefghij"))
    Path("mypackage").mkdir()
    Path("mypackage/models.py").write_text(
        "import torchvision\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.backbone = torchvision.models.resnet18()\n"
        "    def forward(self, x):\n        return self.backbone(x)\n"
        "make = Net\n"
    )
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    torch.save({"state_dict": {f"net.{key}": value for key, value in state.items()}}, "best.ckpt")
    own = torchvision.models.resnet18().state_dict()
    torch.save({f"backbone.{key}": value for key, value in own.items()}, "best.pt")
    if "DEFAULT" in words:  # would be downloaded
        at = words.index("--weights")
        del words[at : at + 2]
    assert words[:3] == ["python", "-m", "lightning_saliency"]
    assert main(words[3:]) == 0
    assert list(Path("maps").glob("*.png"))
    assert list(Path("maps").glob("*.npy"))


@pytest.mark.parametrize("words", REPORTS, ids=lambda words: words[4])
def test_a_report_is_written_as_the_page_says(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in range(4):
        make_writer(f"lightning_logs/version_{version}").write(make_look(0, 0))
    assert words[:3] == ["python", "-m", "lightning_saliency"]
    assert main(words[3:]) == 0
    assert Path("saliency.html").is_file()


@pytest.mark.filterwarnings("default")
def test_the_configuration_in_the_options_builds_the_callback(tmp_path):
    (block,) = blocks(TEXTS["docs/options.md"], "yaml")
    config = yaml.safe_load(block)
    config["trainer"]["logger"] = False
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    cli = LightningCLI(
        TinyClassifier, run=False, args=["--config", str(tmp_path / "config.yaml")], save_config_callback=None
    )
    (callback,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, SaliencyCallback))
    assert callback.samples == Samples(num=16, choose="per_class")


# --- tables and lists


def test_writing_a_method_a_metric_a_logger_and_an_output_is_shown():
    for task in ("write_a_method", "write_a_metric", "write_a_logger", "write_an_output"):
        assert blocks(TEXTS[f"docs/how_to/{task}.md"])


def test_the_page_lists_every_method_and_the_readme_eight_that_there_are():
    for method in METHODS:
        assert f"| `{method}` |" in TEXTS["docs/methods.md"]
    listed = re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)
    assert len(listed) == 8
    assert set(listed) <= METHODS.keys()
    assert {22: "twenty-two"}[len(METHODS)] in README


def test_the_page_lists_every_option_of_a_method():
    page = TEXTS["docs/methods.md"].partition("## Options of a method")[2]
    for method in METHODS.values():
        for name, parameter in inspect.signature(method.function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert f"`{name}`" in page, name


def test_the_page_lists_every_option_with_its_default():
    """`PYTHONPATH=tests python -m option_tables` writes them."""
    page = TEXTS["docs/options.md"]
    assert option_tables.written(page) == page
    assert set(option_tables.GROUPS) == {SaliencyCallback, Samples, Style, Metrics, History, Execution}
    assert len(option_tables.options_of(SaliencyCallback)) <= 12
    for group in (Samples, Style, Metrics, History, Execution):
        for field in fields(group):
            assert f"\n| `{field.name}` | `" in option_tables.table(group)


@pytest.mark.parametrize(("command", "least"), [("explain", 10), ("report", 1)])
def test_the_page_lists_every_option_of_the_command_line(capsys, command, least):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    assert len(options) > least
    for option in options:
        assert f"`{option}`" in TEXTS["docs/command_line.md"], option


def test_the_page_lists_every_metric_as_its_row_says():
    assert metrics_table() in TEXTS["docs/metrics.md"]


def documented():
    """What the reference shows, by its page."""
    return {
        name: page
        for page, text in TEXTS.items()
        for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
        if page.startswith("docs/api/")
    }


def test_the_reference_names_what_there_is():
    for name in documented():
        room, _, member = name.rpartition(".")
        assert hasattr(importlib.import_module(room), member), name


def test_the_reference_has_all_that_is_public():
    shown = {name.rpartition(".")[2] for name in documented()}
    public = [name for name in lightning_saliency.__all__ if not inspect.ismodule(getattr(lightning_saliency, name))]
    functions = [method.function.__name__ for method in METHODS.values()]
    for names in (public, lightning_saliency.callbacks.__all__, functions):
        assert set(names) - {"METHODS", "__version__"} <= shown
    metrics = lightning_saliency.metrics
    assert {name for name in metrics.__all__ if callable(getattr(metrics, name))} <= shown


def test_every_page_is_in_the_contents():
    def pages(entries):
        for entry in entries:
            (content,) = entry.values()
            yield from pages(content) if isinstance(content, list) else [content]

    contents = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(f"docs/{page}" for page in contents) == sorted(TEXTS)


# --- links


def anchors(text):
    return {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", ALL_TEXTS)
def test_the_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?://)(.*?)\)", ALL_TEXTS[page]):
        path, _, heading = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if page.startswith("docs/"):
            assert (ROOT / "docs") in target.parents, f"{link} is not on the site"
        if heading:
            assert heading in anchors(ALL_TEXTS[target.relative_to(ROOT).as_posix()]), link


def test_links_to_our_own_repository_name_a_file_that_there_is():
    address = r"https://github\.com/lightning-saliency/lightning-saliency/blob/main/([^)#\s\"]+)"
    for text in ALL_TEXTS.values():
        for path in re.findall(address, text):
            assert (ROOT / path).exists(), path


def test_pictures_are_small_and_each_is_shown():
    shown = {Path(link).name for text in ALL_TEXTS.values() for link in re.findall(r"!\[.*?\]\((.*?)\)", text)}
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".jpg", ".png", ".gif")]
    assert {path.name for path in pictures} == shown
    for picture in (ROOT / "docs/pictures").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


# --- figures


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200


def test_the_page_of_recipes_lists_them_all():
    """`PYTHONPATH=tests python -m recipes` writes them."""
    assert TEXTS["docs/untouched.md"].split(MARK)[1] == f"\n{all_tables()}\n"


def test_the_readmes_figures_are_those_of_the_pages():
    text = " ".join(README.split())
    clients, right, said, wrong, nothing, stopped = map(
        int, re.search(r"\| clients \|.*\n.*\n\|(.*)\|\n", TEXTS["docs/clients.md"])[1].split("|")
    )
    assert f"[{clients} programs of published training code]" in text
    assert f"{right} were shown rightly, and {said} said in a line" in text
    assert (wrong, nothing, stopped) == (0, 0, 0)  # "none was stopped or ended otherwise"
    families = re.match(r"(\d+ of \d+)", table_row(TEXTS["docs/models.md"], "all")[0])[1]
    assert f"{families} families" in text
    recipes = int(re.search(r"^(\d+) recipes;", TEXTS["docs/untouched.md"], re.MULTILINE)[1])
    assert f"some {round(recipes, -1)} recipes" in text

    def extent(row):
        figures = sorted(map(float, table_row(TEXTS["docs/performance.md"], row)))
        return f"{figures[0]:.1f} to {figures[-1]:.1f}"

    assert f"{extent('three methods: ours')} of a bare forward and backward" in text
    assert f"{extent('a whole call of the callback, in training steps: ours')} of a training step" in text


def test_other_pages_figures_are_those_of_the_pages_with_all_figures():
    of, families = re.match(r"(\d+) of (\d+)", table_row(TEXTS["docs/models.md"], "all")[0]).groups()
    assert f"Of {families} families of published models" in " ".join(TEXTS["docs/methods.md"].split())
    assert f"the layer is right in {of}," in " ".join(TEXTS["docs/methods.md"].split())
    assert f"on {families} families of published models" in TEXTS["docs/how_to/vit.md"]
