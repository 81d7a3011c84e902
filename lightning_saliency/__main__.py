"""`python -m lightning_saliency explain …` and `report …`: see `lightning_saliency.cli`."""

import sys

if __name__ == "__main__":
    try:
        from lightning_saliency.cli import main  # inside the `try`, since it takes seconds

        status = main()
    except KeyboardInterrupt:  # Ctrl-C
        status = 130
    sys.exit(status)
