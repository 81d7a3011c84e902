"""What a pass over the model shows, without leaving a trace on it.

The only room with hooks, modes, autograd, random states and autocast.
"""

from lightning_saliency.evidence.head import find_head, own_parameters, replaced_parameters
from lightning_saliency.evidence.passes import (
    Evidence,
    Need,
    Passes,
    collect,
    collect_layers,
    forward_logits,
    forward_logits_in_chunks,
)
from lightning_saliency.evidence.rectify import Rectifier
from lightning_saliency.evidence.state import (
    ForwardContext,
    as_model_input,
    bare_module,
    in_fastest_layout,
    undisturbed,
)
from lightning_saliency.evidence.trace import find_target_layer

__all__ = [
    "Evidence",
    "ForwardContext",
    "Need",
    "Passes",
    "Rectifier",
    "as_model_input",
    "bare_module",
    "collect",
    "collect_layers",
    "find_head",
    "find_target_layer",
    "forward_logits",
    "forward_logits_in_chunks",
    "in_fastest_layout",
    "own_parameters",
    "replaced_parameters",
    "undisturbed",
]
