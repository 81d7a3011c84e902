"""`MetricsOutput`: logs metrics of the heatmaps, and remembers the heatmaps for the next comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_saliency._lightning import rank_zero_warn
from lightning_saliency.attribution import ExplainedSamples
from lightning_saliency.callbacks.options import Metrics
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.data import SampleCollector
from lightning_saliency.metrics import CoarseHeatmaps, measure, measure_faithfulness, measure_head_randomization

_CHUNK = 32
"""The most images in one forward of the faithfulness metrics."""

_MOST_SAVED = 64
"""The most samples that are not shown whose heatmaps a checkpoint holds: it stays small however many are measured."""

_SAME_CORRELATION = 0.9
"""The rank correlation from which two maps are called the same."""

_RANDOM_HEAD = "rank_correlation_random_head"


class MetricsOutput(Output):
    """Logs the metrics of the heatmaps of each look.

    Args:
        options: Which metrics are measured.
        samples: The samples that are measured in place of the shown ones; None for the shown ones.
    """

    key = "metrics"

    def __init__(self, options: Metrics, samples: SampleCollector | None) -> None:
        self.options = options
        self._samples = samples
        self._previous: list[CoarseHeatmaps] = []
        self._untrained: list[CoarseHeatmaps] = []
        self._warned: set[str] = set()

    @property
    def samples(self) -> SampleCollector | None:
        """The samples that are measured in place of the shown ones; None for the shown ones."""
        return self._samples

    def wants(self, look: Look) -> bool:
        """Whether the look is more than a rehearsal of a resumed run."""
        return not look.is_rehearsal

    def __call__(self, look: Look) -> Logged:
        """Return the metrics of the heatmaps of a look."""
        coarse = [CoarseHeatmaps.from_samples(group) for group in look.explained]
        scalars = measure(
            look.explained,
            coarse,
            previous=self._previous if look.in_fit else (),
            untrained=self._untrained if look.in_fit else (),
            measured=[values for group in look.explained for values in self._run_model(look, group)],
        )
        if look.in_fit:
            self._previous = coarse
            if look.is_untrained:
                self._untrained = coarse
        if self._is_randomized(look) and not look.is_untrained:
            self._warn(scalars)
        return Logged(scalars=scalars)

    def reset(self) -> None:
        """Drop the state of a run."""
        self._previous, self._untrained, self._warned = [], [], set()

    def state_dict(self) -> dict[str, Any]:
        """Return the heatmaps to which a resumed run compares its own: of samples that are not shown, the first 64."""
        limit = None if self._samples is None else _MOST_SAVED
        return {"previous": _saved(self._previous, limit), "untrained": _saved(self._untrained, limit)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._previous = [CoarseHeatmaps.from_state_dict(coarse) for coarse in state.get("previous", ())]
        self._untrained = [CoarseHeatmaps.from_state_dict(coarse) for coarse in state.get("untrained", ())]

    def _run_model(self, look: Look, group: ExplainedSamples) -> list[dict[str, dict[str, Tensor]]]:
        """Return the metrics that need further forwards, one value per image, by method and metric."""
        explanation = group.explanation
        maps = {key: heatmaps.maps for key, heatmaps in group.heatmaps("max").items()}
        values = []
        if self.options.faithfulness:
            batch_size = explanation.settings.chunk_size or _CHUNK
            values.append(measure_faithfulness(look.model, explanation, heatmaps=maps, batch_size=batch_size))
        if self._is_randomized(look):
            similarity = measure_head_randomization(look.model, explanation, heatmaps=maps)
            values.append({key: {_RANDOM_HEAD: correlation} for key, correlation in similarity.items()})
        return values

    def _is_randomized(self, look: Look) -> bool:
        every = self.options.randomization_every_n_epochs
        return bool(every and look.in_fit and (look.epoch is None or (look.epoch + 1) % every == 0))

    def _warn(self, scalars: Mapping[str, float]) -> None:
        for scalar, description in (
            ("rank_correlation_untrained", "of the untrained network"),
            (_RANDOM_HEAD, "with a randomized head"),
        ):
            same = [key for key in scalars if key.endswith(f"/{scalar}") and scalars[key] >= _SAME_CORRELATION]
            for key in same:
                if key not in self._warned:
                    self._warned.add(key)
                    rank_zero_warn(
                        f"{key.removesuffix(f'/{scalar}')}: the map looks the same as that {description} (rank "
                        f"correlation {scalars[key]:.2f}), so it does not show what the network has learned (Adebayo "
                        "et al. 2018)."
                    )


def _saved(looks: Sequence[CoarseHeatmaps], limit: int | None) -> list[dict[str, Any]]:
    """Return the states of heatmaps, as far as they are of samples before a limit."""
    states = [coarse.state_dict(limit) for coarse in looks]
    return [state for state in states if len(state["positions"])]
