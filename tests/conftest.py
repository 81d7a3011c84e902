"""Imports the Lightning package that the variable names before ours, as a program that uses it would."""

import os
import sys
from importlib import import_module

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    import_module("torch").set_num_threads(1)

if "LIGHTNING_PACKAGE" in os.environ:
    import_module(os.environ["LIGHTNING_PACKAGE"])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's, which `--model own:make` names, in the folder in which the test runs."""
    from command_line import OWN  # after the packages above

    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield import_module("own")
    del sys.modules["own"]
