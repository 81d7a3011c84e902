"""Imports the Lightning package that the variable names before ours, as a program that uses it would."""

import os
import signal
import sys
from importlib import import_module

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    import_module("torch").set_num_threads(1)

# a shell starts what it runs in the background such that Ctrl-C is ignored, here and in what the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

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


NOTICES = "lightning_saliency.callbacks.notices"
"""The logger of what a callback would warn of, where warnings are errors, as they are in tests."""


@pytest.fixture
def said(caplog):
    """What a callback has logged in place of warnings, for tests that expect some."""
    return lambda: [record.getMessage() for record in caplog.get_records("call") if record.name == NOTICES]


@pytest.fixture(autouse=True)
def unexpected_notices_fail(request, caplog):
    """Fail where a callback logs what it would warn of: a fault ends no training, but a test that expects none."""
    yield
    if "said" not in request.fixturenames:
        assert [record.getMessage() for record in caplog.get_records("call") if record.name == NOTICES] == []
