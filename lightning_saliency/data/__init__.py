"""The input side: a model's calls, batches, the fixed samples, objects in images, and metadata of data sets."""

from lightning_saliency.data.batches import find_images, find_labels, is_images
from lightning_saliency.data.calls import Call, channels_first, join_calls, like_layout, make_call, plain_call
from lightning_saliency.data.choosing import CHOOSERS, Candidate, Choose, Chooser, First, Positions, Selection
from lightning_saliency.data.datasets import find_class_names, find_dataset, find_normalization
from lightning_saliency.data.objects import boxes_to_masks, masks_to_boxes, objects_to_masks
from lightning_saliency.data.samples import (
    FixedSamples,
    LabelFn,
    Objects,
    Sample,
    SampleBatch,
    SampleCollector,
    given_samples,
)
from lightning_saliency.data.spatial import averaged, interpolated, over_axes, shorter_lengths, spatial_axes, times
from lightning_saliency.data.trees import children, describe, mapped

__all__ = [
    "CHOOSERS",
    "Call",
    "Candidate",
    "Choose",
    "Chooser",
    "First",
    "FixedSamples",
    "LabelFn",
    "Objects",
    "Positions",
    "Sample",
    "SampleBatch",
    "SampleCollector",
    "Selection",
    "averaged",
    "boxes_to_masks",
    "channels_first",
    "children",
    "describe",
    "find_class_names",
    "find_dataset",
    "find_images",
    "find_labels",
    "find_normalization",
    "given_samples",
    "interpolated",
    "is_images",
    "join_calls",
    "like_layout",
    "make_call",
    "mapped",
    "masks_to_boxes",
    "objects_to_masks",
    "over_axes",
    "plain_call",
    "shorter_lengths",
    "spatial_axes",
    "times",
]
