"""`MetricsOutput`: logs metrics of the heatmaps, and remembers the heatmaps for the next comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from torch import Tensor

from lightning_saliency.attribution import METHODS, ExplainedSamples
from lightning_saliency.callbacks.notices import Notices
from lightning_saliency.callbacks.options import Metrics
from lightning_saliency.callbacks.outputs import Logged, Look, Output
from lightning_saliency.data import SampleCollector
from lightning_saliency.metrics import (
    METRICS,
    CoarseHeatmaps,
    Metric,
    faithfulness,
    measure,
    measure_faithfulness,
    measure_head_randomization,
)

_CHUNK = 32
"""The most images in one forward of the faithfulness metrics."""

_INITIAL = "rank_correlation_initial"
_RANDOM_HEAD = "rank_correlation_random_head"

_SAME_FROM = (
    (_INITIAL, 0.9, "of the initial network", "network"),
    (_RANDOM_HEAD, 0.6, "with a randomized head", "head"),
)
"""From which mean rank correlation maps are called the same as others, what these are, and who has learned since.

With a random head: measured on ImageNet with two networks (docs/evidence.md), maps of two different images, which share
little but the photographers' habit of centering, correlate by 0.05 to 0.57 on average, whatever the method. What keeps
0.6 has kept more than that, without anything that the head has learned; no method there stands between 0.50 and 0.65.
0.9 would miss maps of gradients, which slight noise alone takes down to 0.53. Of the initial network, which often has
a trained backbone, maps may rightly stay much as they are.
"""

_OF_FAITHFULNESS = {row.name for row in faithfulness.ROWS}

_MOST_SAVED = 64
"""The most samples that are not shown whose heatmaps a checkpoint holds: it stays small however many are measured."""


@dataclass(frozen=True)
class MapNames:
    """The names that the maps of a look have: those of the methods, or where several layers give one each, of these.

    Attributes:
        methods: Keys of the methods.
        layers: The layers that the user has named, unless their maps are fused.

    Example:
        >>> list(MapNames(("grad_cam", "saliency"), ("net.layer3", "net.layer4")))
        ['grad_cam@net.layer3', 'grad_cam@layer3', 'grad_cam@net.layer4', 'grad_cam@layer4', 'saliency']
    """

    methods: tuple[str, ...]
    layers: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """Yield the names; those of a layer by its name in the whole module, and in each part of it that holds it."""
        for method in self.methods:
            if not METHODS[method].reads_layer or len(self.layers) < 2:
                yield method
                continue
            for layer in self.layers:
                parts = layer.split(".")
                yield from (f"{method}@{'.'.join(parts[start:])}" for start in range(len(parts)))


class MetricsOutput(Output):
    """Logs the metrics of the heatmaps of each look.

    Args:
        options: Which metrics are measured.
        samples: The samples that are measured in place of the shown ones; None for the shown ones.
        maps: The names of the maps that are measured.
        has_objects: Whether it is known where objects are.
    """

    key = "metrics"

    def __init__(self, options: Metrics, samples: SampleCollector | None, *, maps: MapNames, has_objects: bool) -> None:
        self.options = options
        self.maps = maps
        self.has_objects = has_objects
        self._samples = samples
        self._previous: list[CoarseHeatmaps] = []
        self._initial: list[CoarseHeatmaps] = []
        self._images: dict[int, str] = {}
        self._notices = Notices()

    @property
    def samples(self) -> SampleCollector | None:
        """The samples that are measured in place of the shown ones; None for the shown ones."""
        return self._samples

    def wants(self, look: Look) -> bool:
        """Whether the look is more than a rehearsal of a resumed run."""
        return not look.is_rehearsal

    def worst(self) -> dict[str, float]:
        """Return the worst value of each `<map>/<metric>` that can be measured."""
        measured = [metric for metric in METRICS.values() if self._measures(metric)]
        return {f"{name}/{metric.name}": metric.worst for name in self.maps for metric in measured}

    def __call__(self, look: Look) -> Logged:
        """Return the metrics of the heatmaps of a look."""
        if look.in_fit:
            self._keep_images(look)
        coarse = [CoarseHeatmaps.from_samples(group) for group in look.explained]
        first = next(iter(coarse[0].maps))

        def is_logged(method: str, name: str) -> bool:
            return self._is_named(method, name, first) or f"{method}/{name}" in look.monitored

        scalars = measure(
            look.explained,
            coarse,
            previous=self._previous if look.in_fit else (),
            initial=self._initial if look.in_fit else (),
            measured=[values for group in look.explained for values in self._run_model(look, group)],
            wants=lambda method, name: name == _INITIAL or is_logged(method, name),
        )
        if look.in_fit:
            self._previous = coarse
            if look.is_initial:
                self._initial = coarse
        if self._is_randomized(look) and not look.is_initial:
            self._warn(scalars)
        return Logged(scalars={key: value for key, value in scalars.items() if is_logged(*key.rsplit("/", maxsplit=1))})

    def reset(self) -> None:
        """Drop the state of a run."""
        self._previous, self._initial, self._images = [], [], {}
        self._notices.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the heatmaps to which a resumed run compares its own: of samples that are not shown, the first 64."""
        limit = None if self._samples is None else _MOST_SAVED
        images = {position: image for position, image in self._images.items() if limit is None or position < limit}
        return {
            "images": images,
            "previous": _saved(self._previous, limit),
            "initial": _saved(self._initial, limit),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self._images = dict(state.get("images", {}))
        self._previous = [CoarseHeatmaps.from_state_dict(coarse) for coarse in state.get("previous", ())]
        self._initial = [CoarseHeatmaps.from_state_dict(coarse) for coarse in state.get("initial", ())]

    def _is_named(self, method: str, name: str, first: str) -> bool:
        """Whether the options name a metric of a method's maps to be logged; `first` are the first method's."""
        if self.options.names == "all" or not METRICS[name].inputs:
            return True
        few = self.options.names == "few"
        return method == first and METRICS[name].by_default if few else name in self.options.names

    def _measures(self, metric: Metric) -> bool:
        """Whether the options let a metric be measured."""
        if metric.name == _RANDOM_HEAD:
            return self.options.randomization_every_n_epochs is not None
        if not metric.inputs:
            return self.options.faithfulness and metric.name in _OF_FAITHFULNESS
        if "other_methods_ranks" in metric.inputs and len(self.maps.methods) == 1 and len(self.maps.layers) < 2:
            return False
        return self.has_objects or not {"masks", "boxes"} & set(metric.inputs)

    def _keep_images(self, look: Look) -> None:
        """Note which images the heatmaps are of, and drop those of others: a resumed run may have collected others."""
        images = {
            position: _digest(sample.call.images)
            for position, sample in zip(look.samples.positions, look.samples.samples, strict=True)
        }
        others = {position for position, image in images.items() if self._images.get(position, image) != image}
        if others:
            self._previous, self._initial = _without(self._previous, others), _without(self._initial, others)
        self._images |= images

    def _run_model(self, look: Look, group: ExplainedSamples) -> list[dict[str, dict[str, Tensor]]]:
        """Return the metrics that need further forwards, one value per image, by method and metric."""
        explanation = group.explanation
        maps = {key: heatmaps.maps for key, heatmaps in group.heatmaps("max").items()}
        values = []
        if self.options.faithfulness and explanation.probabilities is not None:  # which values have not
            batch_size = explanation.settings.chunk_size or _CHUNK
            values.append(measure_faithfulness(look.forward, explanation, heatmaps=maps, batch_size=batch_size))
        if self._is_randomized(look):
            similarity = measure_head_randomization(look.forward, explanation, heatmaps=maps)
            values.append({key: {_RANDOM_HEAD: correlation} for key, correlation in similarity.items()})
        return values

    def _is_randomized(self, look: Look) -> bool:
        every = self.options.randomization_every_n_epochs
        return bool(every and look.in_fit and (look.epoch is None or (look.epoch + 1) % every == 0))

    def _warn(self, scalars: Mapping[str, float]) -> None:
        for scalar, threshold, description, learner in _SAME_FROM:
            for key in [key for key in scalars if key.endswith(f"/{scalar}") and scalars[key] >= threshold]:
                self._notices.once(
                    f"{key.removesuffix(f'/{scalar}')}: the map looks the same as that {description}, or much like it "
                    f"(rank correlation {scalars[key]:.2f}), so it shows little of what the {learner} has learned "
                    "(Adebayo et al. 2018).",
                    key,
                )


def _saved(looks: Sequence[CoarseHeatmaps], limit: int | None) -> list[dict[str, Any]]:
    """Return the states of heatmaps, as far as they are of samples before a limit."""
    states = [coarse.state_dict(limit) for coarse in looks]
    return [state for state in states if len(state["positions"])]


def _without(looks: Sequence[CoarseHeatmaps], positions: Collection[int]) -> list[CoarseHeatmaps]:
    """Return heatmaps without those of some positions."""
    rest = []
    for coarse in looks:
        rows = [row for row, position in enumerate(coarse.positions) if position not in positions]
        if rows:
            maps = {method: maps[rows] for method, maps in coarse.maps.items()}
            rest.append(CoarseHeatmaps.from_maps([coarse.positions[row] for row in rows], maps))
    return rest


def _digest(images: Tensor) -> str:
    """Return a hash of a thousand or so of the pixels, by which images are told apart."""
    pixels = images.detach().flatten()
    return blake2b(pixels[:: len(pixels) // 1024 + 1].cpu().double().numpy().tobytes(), digest_size=8).hexdigest()
