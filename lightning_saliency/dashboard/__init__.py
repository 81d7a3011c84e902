"""The Saliency tab of TensorBoard, and the report of one file: one front end, two ways to feed it.

Needs NumPy alone, as TensorBoard's start does: nothing here imports torch, Lightning or matplotlib.
"""

import lazy_loader

# what TensorBoard reads at its start imports nothing else of this room: an error there would stop it
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
