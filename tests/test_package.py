"""The package as an index and a reader get it."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from tensorboard.plugins.base_plugin import TBLoader

import lightning_saliency
from lightning_saliency.dashboard.tab import SaliencyTab

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest needs there, too

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = "https://github.com/lightning-saliency/lightning-saliency"


def readme_on_the_index():
    """The README with the substitutions that the build makes."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    return text


def test_every_link_of_the_readme_is_whole_on_the_index_and_names_a_file_that_there_is():
    before = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    after = re.findall(r"\]\(([^)]*)\)", readme_on_the_index())
    assert len(before) == len(after) > 20
    assert all(re.match("https://|#", link) for link in after)
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com") + "/main/"
    for old, new in zip(before, after, strict=True):
        if old != new:
            path = new.removeprefix(raw).removeprefix(f"{REPOSITORY}/blob/main/")
            assert path == old
            assert (ROOT / path.partition("#")[0]).is_file()
            assert new.startswith(raw) == (Path(path).suffix in (".jpg", ".png"))


def test_the_version_is_the_same_everywhere():
    version = lightning_saliency.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest, date = re.search(r"^## \[(\d[\w.]*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE).groups()
    assert version == newest == citation["version"]
    assert date == str(citation["date-released"])
    assert f"lightning-saliency {version}" in (ROOT / "docs/compare.md").read_text(encoding="utf-8")


def test_every_address_of_the_project_is_that_of_one_repository():
    urls = PYPROJECT["project"]["urls"]
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert urls["Source"] == site["repo_url"] == citation["repository-code"] == REPOSITORY
    assert urls["Documentation"] == site["site_url"] == citation["url"]
    assert all(url.startswith((REPOSITORY, site["site_url"])) for url in urls.values())


def test_the_classifiers_name_every_python_from_the_first_that_is_supported():
    named = [line.rpartition(" ")[2] for line in PYPROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    first = int(PYPROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert named == [f"3.{minor}" for minor in range(first, first + len(named))]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_wants(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert {"name", "url", "about"} == form["contact_links"][0].keys()
        return
    assert {"name", "description", "body"} <= form.keys()
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "markdown", "checkboxes")
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] == "dropdown")
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)


def test_tensorboard_finds_the_tab():
    ((name, place),) = PYPROJECT["project"]["entry-points"]["tensorboard_plugins"].items()
    module, _, loader = place.partition(":")
    assert issubclass(getattr(importlib.import_module(module), loader), TBLoader)
    assert name == SaliencyTab.plugin_name
