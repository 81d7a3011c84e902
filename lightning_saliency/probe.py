"""The samples through the module, as the trainer runs it: which part of it, for which class, within its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_saliency._compat import LightningModule, Trainer, is_oom_error, muted, overrides
from lightning_saliency.attribution import METHODS, MethodOptions
from lightning_saliency.evidence import find_target_layer
from lightning_saliency.explain import Explanation, Fuse, explain
from lightning_saliency.faithfulness import faithfulness
from lightning_saliency.layers import TargetLayer, name_layer
from lightning_saliency.samples import Samples
from lightning_saliency.sanity import head_similarity
from lightning_saliency.targets import Task

_AT_ONCE = 32
"""Images in a forward whose number grows with the samples'."""

CallbackTarget = Literal["label", "predicted"] | int | list[int] | Callable[[Tensor], Tensor]


@dataclass
class Probe:
    """Explains samples by a trainer's module, and remembers what it found out on the way.

    Attributes:
        methods: Keys of `METHODS`.
        target: Which class is explained; see `SaliencyCallback`.
        layer: Dotted name of the target layer, or several, or None to find it.
        model: Dotted name of the submodule that is explained, or None to find it.
        output_fn: Takes the logits out of what the model returns.
        chunk_size: At most so many images at a time.
        task: What probabilities are made of logits; None for what the module calls its own `task`, else multiclass.
        fuse: How the maps of several layers become one; see `explain`.
        flip: Whether mirrored images are explained too; see `explain`.
        method_options: See `explain`.
    """

    methods: tuple[str, ...]
    target: CallbackTarget | None = "label"
    layer: str | list[str] | None = None
    model: str | None = None
    output_fn: Callable[[Any], Tensor] | None = None
    chunk_size: int | None = None
    task: Task | None = None
    fuse: Fuse | None = None
    flip: bool = False
    method_options: MethodOptions | None = None
    _found_layer: TargetLayer | None = field(default=None, init=False)
    _fitting_chunk: int | None = field(default=None, init=False)

    def forget(self) -> None:
        """Let go of the module, and of what may be what is wrong."""
        self._found_layer = None

    def check(self, pl_module: LightningModule) -> None:
        """Refuse names that the module does not have.

        Raises:
            ValueError: There is no such layer or submodule, or it is not clear which submodule to explain.
        """
        model = find_model(pl_module, self.model)
        for name in [self.layer] if isinstance(self.layer, str) else self.layer or ():
            name_layer(model, name)

    def explain(
        self, trainer: Trainer, pl_module: LightningModule, samples: Samples, at_once: int | None = None
    ) -> Explanation:
        """Explain the samples in the trainer's precision, in smaller chunks where the memory does not suffice.

        Args:
            trainer: The trainer.
            pl_module: Its module.
            samples: Any number of images.
            at_once: In what chunks, where no size of chunks is set; None for all at once.
        """
        model = find_model(pl_module, self.model)
        images = samples.images.to(pl_module.device)
        run = self._run(trainer)
        target: Any = self.target
        if target == "label":
            target = self._fitting_labels(samples)
        elif target == "predicted":
            target = None
        elif isinstance(target, Sequence) and samples.rows is not None:  # sanity checking may show a part of them
            target = [target[row] for row in samples.rows]
        own_task = getattr(pl_module, "task", None)
        chunk = self._fitting_chunk or self.chunk_size or at_once
        while True:
            try:
                with muted(pl_module):
                    if self._found_layer is None and self._must_find_layer():
                        self._found_layer = find_target_layer(model, images, **run)
                    layer = self.layer or self._found_layer
                    return explain(
                        model,
                        images,
                        methods=self.methods,
                        target=target,
                        layer=layer,
                        task=self.task or ("multilabel" if own_task == "multilabel" else "multiclass"),
                        chunk_size=chunk,
                        **self._options,
                        **run,
                    )
            except TypeError as fault:
                raise TypeError(
                    f"Expected {type(model).__name__} to turn a batch of images, and nothing else, into logits: "
                    f"{fault}. Name the submodule that does: `model=...`."
                ) from fault
            except (RuntimeError, MemoryError) as fault:
                tried = min(chunk or len(images), len(images))
                if tried == 1 or not (is_oom_error(fault) or isinstance(fault, MemoryError)):
                    raise
            # out of the handler: the fault holds the frames, and these the tensors
            chunk = self._fitting_chunk = tried // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def faithfulness(
        self, trainer: Trainer, pl_module: LightningModule, explanation: Explanation
    ) -> dict[str, dict[str, Tensor]]:
        """How much of the model's decision the maps hold; see `lightning_saliency.faithfulness`."""
        with muted(pl_module):
            return faithfulness(
                find_model(pl_module, self.model),
                explanation,
                batch_size=self._fitting_chunk or self.chunk_size or _AT_ONCE,
                **self._run(trainer),
            )

    def head_similarity(
        self, trainer: Trainer, pl_module: LightningModule, explanation: Explanation
    ) -> dict[str, Tensor]:
        """How like the maps are to those of a randomised head; see `lightning_saliency.sanity`."""
        with muted(pl_module):
            return head_similarity(
                find_model(pl_module, self.model),
                explanation,
                chunk_size=self._fitting_chunk or self.chunk_size or _AT_ONCE,
                **self._options,
                **self._run(trainer),
            )

    @property
    def _options(self) -> dict[str, Any]:
        """How the maps are made."""
        return {
            "fuse": self.fuse,
            "flip": self.flip,
            "method_options": self.method_options,
            "progress": False,
        }

    def _run(self, trainer: Trainer) -> dict[str, Any]:
        """How the model is run."""
        return {"output_fn": self.output_fn, "forward_context": trainer.precision_plugin.forward_context}

    def explained(self, samples: Samples) -> str:
        """In words, which class is explained."""
        if self.target == "label":
            return "true class" if samples.labels is not None else "predicted class"
        if isinstance(self.target, int):
            return f"class {self.target}"
        return "predicted class" if self.target in ("predicted", None) else "chosen target"

    def _fitting_labels(self, samples: Samples) -> Tensor | None:
        if samples.labels is not None and (samples.labels < 0).any():
            raise ValueError(
                f"The labels that were found in the batch are no classes: they hold {int(samples.labels.min())}. Pass "
                "`target='predicted'`, or an `input_fn` that returns (images, labels)."
            )
        return samples.labels

    def _must_find_layer(self) -> bool:
        return self.layer is None and any(METHODS[method].reads_layer for method in self.methods)


def find_model(pl_module: LightningModule, name: str | None = None) -> nn.Module:
    """The part of a LightningModule that turns images into logits.

    It is the submodule of that name; without one the module itself if it defines `forward`, else its only submodule
    with parameters.

    Raises:
        ValueError: There is no such submodule, or it is not clear which.
    """
    if name is not None:
        return name_layer(pl_module, name, argument="model").module
    if overrides(pl_module, "forward"):
        return pl_module
    children = [name for name, child in pl_module.named_children() if any(True for _ in child.parameters())]
    if len(children) != 1:
        raise ValueError(
            f"{type(pl_module).__name__} defines no `forward`, so it is not clear what turns images into logits. "
            f"Define it, or name a submodule: `model=...`, one of {', '.join(children) or 'none'}."
        )
    return pl_module.get_submodule(children[0])
