"""The input side: a model's calls, batches, the fixed samples, objects in images, and metadata of data sets."""

from lightning_saliency.data.bands import Bands, find_rgb_bands
from lightning_saliency.data.batches import (
    LABEL_NAMES,
    find_entry,
    find_images,
    find_label_channels,
    find_label_columns,
    find_label_masks,
    find_label_rows,
    find_labels,
    find_values,
    is_images,
    read_classes,
    smallest_classes,
)
from lightning_saliency.data.calls import Call, channels_first, join_calls, like_layout, make_call, plain_call
from lightning_saliency.data.choosing import CHOOSERS, Candidate, Choose, Chooser, First, Positions, Selection, Spread
from lightning_saliency.data.class_names import find_class_names, names_by_label
from lightning_saliency.data.datasets import find_dataset, find_loader
from lightning_saliency.data.normalization import PIXELS, Normalization, find_normalizations, to_unit_range
from lightning_saliency.data.object_boxes import ObjectBoxes, find_object_boxes
from lightning_saliency.data.objects import boxes_to_masks, masks_to_boxes, objects_to_masks
from lightning_saliency.data.photos import (
    NoImageError,
    Photo,
    image_extensions,
    is_photo,
    read_image,
    to_photo,
    transformed,
)
from lightning_saliency.data.pixels import common_normalization, find_step_normalization
from lightning_saliency.data.placement import Placement, find_placement
from lightning_saliency.data.sample import FixedSamples, Sample, SampleBatch
from lightning_saliency.data.samples import LabelFn, Objects, SampleCollector, given_samples
from lightning_saliency.data.shades import find_own_normalization
from lightning_saliency.data.spatial import averaged, interpolated, over_axes, shorter_lengths, spatial_axes, times
from lightning_saliency.data.spread import find_stream_labels, spread_positions
from lightning_saliency.data.trees import Path, at_path, children, describe, is_subclass, mapped, plain_tensors
from lightning_saliency.data.truths import NOTHING, Answer, Truths, find_truths

__all__ = [
    "CHOOSERS",
    "LABEL_NAMES",
    "NOTHING",
    "PIXELS",
    "Answer",
    "Bands",
    "Call",
    "Candidate",
    "Choose",
    "Chooser",
    "First",
    "FixedSamples",
    "LabelFn",
    "NoImageError",
    "Normalization",
    "ObjectBoxes",
    "Objects",
    "Path",
    "Photo",
    "Placement",
    "Positions",
    "Sample",
    "SampleBatch",
    "SampleCollector",
    "Selection",
    "Spread",
    "Truths",
    "at_path",
    "averaged",
    "boxes_to_masks",
    "channels_first",
    "children",
    "common_normalization",
    "describe",
    "find_class_names",
    "find_dataset",
    "find_entry",
    "find_images",
    "find_label_channels",
    "find_label_columns",
    "find_label_masks",
    "find_label_rows",
    "find_labels",
    "find_loader",
    "find_normalizations",
    "find_object_boxes",
    "find_own_normalization",
    "find_placement",
    "find_rgb_bands",
    "find_step_normalization",
    "find_stream_labels",
    "find_truths",
    "find_values",
    "given_samples",
    "image_extensions",
    "interpolated",
    "is_images",
    "is_photo",
    "is_subclass",
    "join_calls",
    "like_layout",
    "make_call",
    "mapped",
    "masks_to_boxes",
    "names_by_label",
    "objects_to_masks",
    "over_axes",
    "plain_call",
    "plain_tensors",
    "read_classes",
    "read_image",
    "shorter_lengths",
    "smallest_classes",
    "spatial_axes",
    "spread_positions",
    "times",
    "to_photo",
    "to_unit_range",
    "transformed",
]
