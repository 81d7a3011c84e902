"""Other backward rules for ReLUs than that of the gradient, applied to the autograd graph of one forward."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor

from lightning_saliency.evidence.graph import ancestors, is_made_by, operation

Rectifier: TypeAlias = Literal["guided", "deconvnet", "redirected"]
"""A backward rule for ReLUs: `"guided"`, the positive part of the gradient at the input (Springenberg 2015);
`"deconvnet"`, the positive part of the gradient at the output, active or not (Zeiler & Fergus 2014); or `"redirected"`,
the gradient at the output for an image of which the ReLU lets nothing through (Lucid; Olah et al. 2017)."""


def rectify(scores: Tensor, source: Tensor, rectifier: Rectifier) -> None:
    """Make each ReLU between the scores and the input follow another rule in the backward that comes next.

    ReLUs are recognized in the graph, however they were written: `nn.ReLU`, `F.relu`, `torch.relu`, `clamp(min=0)`,
    `F.threshold` and the forms in place (but not of a slice or another view); ReLU6 too. The model is not touched: the
    rule ends with the graph.

    Args:
        scores: The scores, with their graph.
        source: The input; nothing is done where the scores do not depend on it.
        rectifier: The rule.

    Raises:
        ValueError: There is no ReLU; not where the rule is `"redirected"`, which then has nothing to do.
    """
    graph = ancestors([scores.grad_fn])
    if not any(is_made_by(node, source) for node in graph):
        return
    nodes = [node for node in graph if _is_relu(node)]
    if not nodes and rectifier != "redirected":
        raise ValueError(
            "The methods `guided_backprop`, `deconvnet` and `guided_grad_cam` change the backward through ReLUs, and "
            "between this model's score and its input there is none: on it they would be the plain gradient. Use "
            "`saliency`, `smooth_grad` or `integrated_gradients`."
        )
    for node in nodes:
        node.register_hook(_RULES[rectifier])


def _guided(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(None if grad is None else grad.clamp(min=0) for grad in grad_inputs)


def _deconvolved(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (None if grad_outputs[0] is None else grad_outputs[0].clamp(min=0), *grad_inputs[1:])


def _redirected(grad_inputs: tuple[Any, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    grad_input, grad_output = grad_inputs[0], grad_outputs[0]
    if grad_input is None or grad_output is None:
        return grad_inputs
    passes = grad_input.reshape(len(grad_input), -1).any(1)
    return (grad_input.where(passes.view(-1, *[1] * (grad_input.dim() - 1)), grad_output), *grad_inputs[1:])


_RULES = {"guided": _guided, "deconvnet": _deconvolved, "redirected": _redirected}


def _is_relu(node: Any) -> bool:
    kind = operation(node)
    if kind == "Hardtanh":  # ReLU6
        return float(node._saved_min_val) == 0
    if kind in ("Clamp", "ClampMin"):
        low = getattr(node, "_saved_min", None)
        return bool((low == 0).all()) if isinstance(low, Tensor) else low == 0
    if kind == "Threshold":
        return float(node._saved_threshold) >= 0
    return kind == "Relu"
