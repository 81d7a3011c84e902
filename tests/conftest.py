"""Imports the Lightning package that the variable names before ours, as a program that uses it would."""

import os
from importlib import import_module

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"
    import_module("torch").set_num_threads(1)

if "LIGHTNING_PACKAGE" in os.environ:
    import_module(os.environ["LIGHTNING_PACKAGE"])
