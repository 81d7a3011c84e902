"""The Saliency tab of TensorBoard, and the report of one file: one front end, two ways to feed it.

Needs NumPy alone, as TensorBoard's start does: nothing here imports torch, Lightning or matplotlib.
"""
