"""Running a model without side effects: logits, activations and gradients of one forward and backward pass.

The only package with hooks, modes, autograd, random states and autocast.
"""

from lightning_saliency.evidence.attention import Attention, AttentionPart, AttentionReader
from lightning_saliency.evidence.call_notes import call_note
from lightning_saliency.evidence.chain import Chain, Link, Stages, find_link, find_stages, same_outputs, same_tensors
from lightning_saliency.evidence.chosen_layers import AttentionSites, Layers
from lightning_saliency.evidence.class_weights import POOLINGS, find_class_weights
from lightning_saliency.evidence.detection_tasks import Detection
from lightning_saliency.evidence.detections import boxes_beside, is_list_of_detections
from lightning_saliency.evidence.forward import Forward, ForwardContext, as_forward
from lightning_saliency.evidence.gradient_end import GradientEnd, find_gradient_end
from lightning_saliency.evidence.head import find_head, own_parameters, replace_parameters
from lightning_saliency.evidence.isolation import Surroundings, Undisturbed
from lightning_saliency.evidence.layers import find_layers, find_target_layer, with_layout
from lightning_saliency.evidence.layout import Layout, TokenGrid
from lightning_saliency.evidence.loss import LossTerm, LossUse, read_loss, trained_parameters
from lightning_saliency.evidence.output_layers import output_terms
from lightning_saliency.evidence.outputs import OutputChoice, check_output_choice, output_tensors, read_as, read_output
from lightning_saliency.evidence.passes import Passes, forward_logits, forward_logits_in_chunks
from lightning_saliency.evidence.process_state import ProcessKept, evaluation_modes
from lightning_saliency.evidence.random_states import RandomStates
from lightning_saliency.evidence.recorder import CallRecorder, RecordedCall
from lightning_saliency.evidence.rectify import Rectifier
from lightning_saliency.evidence.shadow import Shadow
from lightning_saliency.evidence.shared_pass import Evidence, Need, SharedPass, collect
from lightning_saliency.evidence.signals import uninterrupted
from lightning_saliency.evidence.tap import UnknownLayoutError
from lightning_saliency.evidence.target_layer import TargetLayer, name_layer
from lightning_saliency.evidence.targets import (
    PREDICTED,
    ParsedTarget,
    Target,
    TargetChoice,
    check_classes,
    predicted_classes,
    select_scores,
)
from lightning_saliency.evidence.task import Reading, Task, TaskName
from lightning_saliency.evidence.tasks import TASKS, Embedding, MultilabelSegmentation, Regression
from lightning_saliency.evidence.trace import is_activation
from lightning_saliency.evidence.value_maps import is_single, map_beside

__all__ = [
    "POOLINGS",
    "PREDICTED",
    "TASKS",
    "Attention",
    "AttentionPart",
    "AttentionReader",
    "AttentionSites",
    "CallRecorder",
    "Chain",
    "Detection",
    "Embedding",
    "Evidence",
    "Forward",
    "ForwardContext",
    "GradientEnd",
    "Layers",
    "Layout",
    "Link",
    "LossTerm",
    "LossUse",
    "MultilabelSegmentation",
    "Need",
    "OutputChoice",
    "ParsedTarget",
    "Passes",
    "ProcessKept",
    "RandomStates",
    "Reading",
    "RecordedCall",
    "Rectifier",
    "Regression",
    "Shadow",
    "SharedPass",
    "Stages",
    "Surroundings",
    "Target",
    "TargetChoice",
    "TargetLayer",
    "Task",
    "TaskName",
    "TokenGrid",
    "Undisturbed",
    "UnknownLayoutError",
    "as_forward",
    "boxes_beside",
    "call_note",
    "check_classes",
    "check_output_choice",
    "collect",
    "evaluation_modes",
    "find_class_weights",
    "find_gradient_end",
    "find_head",
    "find_layers",
    "find_link",
    "find_stages",
    "find_target_layer",
    "forward_logits",
    "forward_logits_in_chunks",
    "is_activation",
    "is_list_of_detections",
    "is_single",
    "map_beside",
    "name_layer",
    "output_tensors",
    "output_terms",
    "own_parameters",
    "predicted_classes",
    "read_as",
    "read_loss",
    "read_output",
    "replace_parameters",
    "same_outputs",
    "same_tensors",
    "select_scores",
    "trained_parameters",
    "uninterrupted",
    "with_layout",
]
