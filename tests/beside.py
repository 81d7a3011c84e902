"""Fits with a callback beside the same fit without it."""

from tiny import L, loader, trainer

from lightning_saliency.callbacks.audit import changed, fingerprint


class Ending(L.Callback):
    """Keeps the fingerprint of the training's end."""

    def on_train_end(self, trainer, pl_module):
        self.fingerprint = fingerprint(trainer, pl_module)


def fit_beside(tmp_path, module, callback, *others, **options):
    """Fit with the callback, and check that it ends like the fit without it; return the first trainer.

    `others` make further callbacks, which both fits have.
    """
    endings, runners = [], []
    for callbacks in ([callback], []):
        L.seed_everything(1)
        ending = Ending()
        folder = tmp_path / ("with" if callbacks else "without")
        also = [other() for other in others]
        runner = trainer(folder, *callbacks, *also, ending, **({"max_epochs": 3} | options))
        runner.fit(module(), loader(shuffle=True), loader())
        endings.append(ending.fingerprint)
        runners.append(runner)
    assert changed(*endings) == []
    return runners[0]


def texts(caught, part: str) -> list[str]:
    """The texts of the warnings that have a part."""
    return [str(warning.message) for warning in caught if part in str(warning.message)]
