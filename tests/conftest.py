"""Imports the Lightning package that the variable names before ours, as a program that uses it would."""

import os
from importlib import import_module

import pytest

pytest.register_assert_rewrite("states")

if "LIGHTNING_PACKAGE" in os.environ:
    import_module(os.environ["LIGHTNING_PACKAGE"])
