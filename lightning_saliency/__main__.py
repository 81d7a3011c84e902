"""`python -m lightning_saliency explain …`: see `lightning_saliency.cli`."""

import sys

from lightning_saliency.cli import main

if __name__ == "__main__":
    sys.exit(main())
