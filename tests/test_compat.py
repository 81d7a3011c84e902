"""One callback class for `pytorch_lightning` and `lightning.pytorch`, whichever is installed."""

import pickle
import subprocess
import sys
import warnings
from importlib import import_module

import pytest
from tiny import TinyClassifier, classifier_of, events, loader, trainer

import lightning_saliency
from lightning_saliency import GradCAMCallback, SaliencyCallback
from lightning_saliency._lightning import PACKAGES, Callback
from lightning_saliency.callbacks import Samples
from lightning_saliency.callbacks.audit import digest

SHELLS = [getattr(lightning_saliency, name) for name in lightning_saliency.__all__ if name.endswith("Callback")]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_callback_is_one_of_the_package_and_works_bare_and_in_a_list(package, tmp_path):
    assert all(issubclass(shell, package.Callback) for shell in [*SHELLS, Callback])
    for name, given in (("bare", GradCAMCallback()), ("list", [GradCAMCallback()])):
        logger = package.loggers.TensorBoardLogger(tmp_path, name=name, version="")
        package.Trainer(
            max_epochs=1, callbacks=given, logger=logger, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, log_every_n_steps=1, accelerator="cpu", devices=1,
        ).fit(classifier_of(package)(), loader(), loader())  # fmt: skip
        assert len(events(tmp_path / name).Images("saliency/grad_cam")) == 2


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_the_command_line_of_the_package_takes_it_and_explains_its_options(package, tmp_path, capsys):
    cli = import_module(f"{package.__name__}.cli").LightningCLI
    module = classifier_of(package)
    arguments = ["--trainer.callbacks=lightning_saliency.GradCAMCallback", "--trainer.callbacks.samples=3"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cli(module, run=False, args=arguments, save_config_callback=None)
        callbacks = [given for given in made.trainer.callbacks if isinstance(given, SaliencyCallback)]
        assert len(callbacks) == 1
        assert list(callbacks[0].methods) == ["grad_cam"]
        assert callbacks[0].samples == Samples(num=3)
        with pytest.raises(SystemExit):
            cli(module, run=False, args=["--trainer.callbacks.help=lightning_saliency.SaliencyCallback"])
    printed = capsys.readouterr().out
    assert "--trainer.callbacks.every_n_epochs" in printed
    assert "The number of epochs from one look to the next" in printed
    assert "--trainer.callbacks.execution.help" in printed


def test_the_callback_pickles_before_and_after_a_run(tmp_path):
    callback, model = GradCAMCallback(samples=2), TinyClassifier()
    for _ in range(2):
        again = pickle.loads(pickle.dumps(callback))
        assert again.methods == callback.methods
        assert again.checkpoint_key == callback.checkpoint_key
        runner = trainer(tmp_path, callback, max_epochs=1)
        runner.fit(model, loader(), loader())
    states = []
    for one in (callback, pickle.loads(pickle.dumps(callback))):
        runner.callbacks, checkpoint = [one], {}
        one.on_save_checkpoint(runner, model, checkpoint)
        states.append(checkpoint["lightning_saliency"][one.checkpoint_key])
    assert states[0]["samples"]["samples"]
    assert digest(states[0]) == digest(states[1])


@pytest.mark.parametrize(("name", "needs_lightning"), [("GradCAMCallback", True), ("explain", False)])
def test_without_any_lightning_what_needs_it_says_what_to_install_and_the_rest_works(name, needs_lightning):
    code = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('lightning', 'pytorch_lightning') else find(name, *a)\n"
        f"from lightning_saliency import {name}"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = "ImportError: lightning-saliency needs Lightning: `pip install pytorch-lightning`" in ended.stderr
    assert (told, ended.returncode != 0) == (needs_lightning, needs_lightning)
