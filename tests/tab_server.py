"""TensorBoard with the Saliency tab, whether or not the package is installed: `python -m tab_server --logdir runs`."""

import sys


def main(arguments):
    from tensorboard import default, program  # which warns, where all modules of the tests are looked at

    from lightning_saliency.dashboard.loader import SaliencyLoader

    installed = [loader for loader in default.get_dynamic_plugins() if loader is not SaliencyLoader]
    tensorboard = program.TensorBoard(plugins=[*default.get_static_plugins(), *installed, SaliencyLoader])
    tensorboard.configure(argv=["tensorboard", *arguments])
    return tensorboard.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
