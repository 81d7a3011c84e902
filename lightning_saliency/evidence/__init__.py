"""Running a model without side effects: logits, activations and gradients of one forward and backward pass.

The only package with hooks, modes, autograd, random states and autocast.
"""

from lightning_saliency.evidence.attention import Attention, AttentionPart, AttentionReader
from lightning_saliency.evidence.call_notes import call_note
from lightning_saliency.evidence.class_weights import POOLINGS, find_class_weights
from lightning_saliency.evidence.detections import boxes_beside, is_list_of_detections
from lightning_saliency.evidence.forward import Forward, ForwardContext, as_forward
from lightning_saliency.evidence.head import find_head, own_parameters, replace_parameters
from lightning_saliency.evidence.isolation import Surroundings, Undisturbed
from lightning_saliency.evidence.layers import AttentionSites, Layers, find_layers, find_target_layer, with_layout
from lightning_saliency.evidence.layout import Layout, TokenGrid
from lightning_saliency.evidence.loss import LossTerm, LossUse, read_loss
from lightning_saliency.evidence.outputs import OutputChoice, check_output_choice, output_tensors, read_output
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
from lightning_saliency.evidence.tasks import TASKS, Detection, Reading, Regression, Task, TaskName

__all__ = [
    "POOLINGS",
    "PREDICTED",
    "TASKS",
    "Attention",
    "AttentionPart",
    "AttentionReader",
    "AttentionSites",
    "CallRecorder",
    "Detection",
    "Evidence",
    "Forward",
    "ForwardContext",
    "Layers",
    "Layout",
    "LossTerm",
    "LossUse",
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
    "find_head",
    "find_layers",
    "find_target_layer",
    "forward_logits",
    "forward_logits_in_chunks",
    "is_list_of_detections",
    "name_layer",
    "output_tensors",
    "own_parameters",
    "predicted_classes",
    "read_loss",
    "read_output",
    "replace_parameters",
    "select_scores",
    "uninterrupted",
    "with_layout",
]
