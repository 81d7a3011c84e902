"""Attention as numbers: what a callback logs of its maps, and what it must remember for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_saliency._compat import rank_zero_warn
from lightning_saliency.callbacks.base import Turn
from lightning_saliency.explain import ExplainedSamples, Explanation, HeatmapStage
from lightning_saliency.metrics import CoarseHeatmaps, measure
from lightning_saliency.probe import Probe
from lightning_saliency.samples import FixedBatch, Samples

_AT_ONCE = 32
"""Of the samples that are not shown."""

_THE_SAME = 0.9
"""The rank correlation from which on a map is said to look the same."""


@dataclass
class Numbers:
    """Measures the maps of each turn.

    Attributes:
        probe: Explains samples.
        samples: Which are measured in place of the shown ones; None for these.
        faithfulness: Whether to measure what the maps say of the model's decision, by further forwards.
        sanity_every_n_epochs: How often to compare the maps with those of randomised networks; None for never.
        last: What was seen the last time.
        untrained: What the untrained network saw.
    """

    probe: Probe
    samples: FixedBatch | None = None
    faithfulness: bool = False
    sanity_every_n_epochs: int | None = None
    last: CoarseHeatmaps | None = None
    untrained: CoarseHeatmaps | None = None
    _said: set[str] = field(default_factory=set)

    def reset(self) -> None:
        """Forget what belongs to one run."""
        self.last = self.untrained = None
        self._said = set()
        if self.samples is not None:
            self.samples.reset()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, to go on measuring drift."""
        return {
            "last": None if self.last is None else self.last.state_dict(),
            "untrained": None if self.untrained is None else self.untrained.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it."""
        last, untrained = state.get("last"), state.get("untrained")
        self.last = None if last is None else CoarseHeatmaps.from_state_dict(last)
        self.untrained = None if untrained is None else CoarseHeatmaps.from_state_dict(untrained)

    def of(self, turn: Turn, explanation: Explanation) -> dict[str, float]:
        """Measure a turn, whose shown samples were explained so."""
        samples = turn.samples
        if self.samples is not None and turn.stage == "validate":
            wanted = self._thinned(turn.share)
            if wanted is None:
                return {}
            samples = wanted
            explanation = self.probe.explain(turn.trainer, turn.pl_module, samples, at_once=_AT_ONCE)
        parts = [ExplainedSamples(explanation, HeatmapStage(explanation), tuple(samples.places), masks=samples.masks)]
        seen = CoarseHeatmaps.from_samples(parts[0])
        last, untrained = ([one] if one is not None and turn.in_fit else [] for one in (self.last, self.untrained))
        measured: list[Mapping[str, Mapping[str, Tensor]]] = []
        if self.faithfulness:
            measured.append(self.probe.faithfulness(turn.trainer, turn.pl_module, explanation))
        every = self.sanity_every_n_epochs
        if every and turn.in_fit and (turn.is_untrained or (turn.trainer.current_epoch + 1) % every == 0):
            likeness = self.probe.head_similarity(turn.trainer, turn.pl_module, explanation)
            measured.append({key: {"rank_correlation_random_head": values} for key, values in likeness.items()})
        found = measure(parts, [seen], previous=last, untrained=untrained, measured=measured)
        if turn.in_fit:
            self.last = seen
            if turn.is_untrained:
                self.untrained = seen
            elif any(key.endswith("/rank_correlation_random_head") for key in found):
                self._warn(found)
        return found

    def _thinned(self, share: float) -> Samples | None:
        assert self.samples is not None  # the caller has looked
        current = self.samples.current()
        return None if current is None else current[: max(1, round(share * len(current)))]

    def _warn(self, found: Mapping[str, float]) -> None:
        for scalar, what in (
            ("rank_correlation_untrained", "of the untrained network"),
            ("rank_correlation_random_head", "with a randomised head"),
        ):
            same = [key for key in found if key.endswith(f"/{scalar}") and found[key] >= _THE_SAME]
            for key in same:
                if key not in self._said:
                    self._said.add(key)
                    rank_zero_warn(
                        f"{key.removesuffix(f'/{scalar}')}: the map looks the same as that {what} (rank correlation "
                        f"{found[key]:.2f}), so it does not show what the network has learned (Adebayo et al. 2018)."
                    )
