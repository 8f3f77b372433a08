"""The content of scores.json: every figure of every system, with its uncertainty."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from l2sae_jax.evaluation.figures import Figure, figures
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.realism import (
    Distance,
    difference_of,
    estimate_of,
    frechet_distances,
    kernel_estimate,
)
from l2sae_jax.evaluation.running import Measured
from l2sae_jax.evaluation.timing import Timing
from l2sae_jax.metrics.resampling import Estimate, difference, estimate
from l2sae_jax.regions import REGION_NAMES

RESAMPLES = 1000

# Table 1 of the paper, whose columns of FID and LPIPS are interchanged in print.
PAPER = {
    "L2SAE (paper)": {"fid": 26.61, "lpips": 0.203, "seconds": 0.07},
    "SemanticStyleGAN (paper)": {"fid": 22.38, "lpips": 0.307, "seconds": 120.6},
}

Scores = dict[str, Any]


def scores(
    measured: Measured, timings: Mapping[str, Mapping[str, Timing]], protocol: Protocol
) -> Scores:
    """Figures of every system, and how those of later systems differ from the first's.

    Args:
      timings: of the systems that were timed, by region.

    Returns:
      "systems", by name, group and figure, down to `{"value", "standard_error", "low", "high",
      "count", "seed"}`; "differences", likewise; and "paper", the rows of its table 1.
    """
    seed = protocol.seed
    sampling = {"resamples": RESAMPLES, "seed": seed}
    by_system = {name: figures(table, protocol) for name, table in measured.systems.items()}
    distances = _distances(measured, protocol)
    systems = {}
    for name, table in measured.systems.items():
        groups = _grouped(
            {
                key: _told(figure, partial(estimate, figure.ratio, **sampling), seed)
                for key, figure in by_system[name].items()
            }
        )
        if distances.get(name):
            groups["realism"] = _mapped(
                lambda one: _values(estimate_of(one), seed), distances[name]
            )
            kernel = kernel_estimate(table, measured.originals, seed)
            if kernel is not None:
                groups["realism"]["kid"] = _values(kernel, seed)
        if name in timings:
            groups["time"] = {region: timing._asdict() for region, timing in timings[name].items()}
        systems[name] = groups | {"table_1": _table_1(groups)}
    first, *others = by_system
    differences = {}
    for name in others:
        shared = [key for key in by_system[name] if key in by_system[first]]
        pairs = {key: (by_system[name][key], by_system[first][key].ratio) for key in shared}
        groups = _grouped(
            {
                key: _told(figure, partial(difference, figure.ratio, old, **sampling), seed)
                for key, (figure, old) in pairs.items()
            }
        )
        apart = _apart(distances.get(name, {}), distances.get(first, {}), seed)
        differences[f"{name} less {first}"] = groups | ({"realism": apart} if apart else {})
    return {"paper": PAPER, "systems": systems, "differences": differences}


def _distances(measured: Measured, protocol: Protocol) -> dict[str, Any]:
    if measured.originals is None:
        return {}
    return {
        name: frechet_distances(table, measured.originals, protocol)
        for name, table in measured.systems.items()
    }


def _apart(new: Mapping[str, Any], old: Mapping[str, Any], seed: int) -> Scores:
    """The differences of the distances that both have, of as many pictures."""
    found = {}
    for name in (name for name in new if name in old):
        if not isinstance(new[name], Distance):
            found[name] = _apart(new[name], old[name], seed)
        elif new[name].count == old[name].count:
            found[name] = _values(difference_of(new[name], old[name]), seed)
    return found


def _mapped(function: Callable[[Distance], Any], tree: Any) -> Any:
    if isinstance(tree, Distance):
        return function(tree)
    return {name: _mapped(function, branch) for name, branch in tree.items()}


def _grouped(by_key: Mapping[str, Any]) -> Scores:
    """A tree of what has names such as "edit.lpips"."""
    groups: Scores = {}
    for key, value in by_key.items():
        group, name = key.split(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _told(figure: Figure, statistic: Callable[..., Estimate], seed: int) -> Scores:
    """The values of a figure by the names along its axes; of regions, with their mean."""
    means = statistic(mean_over=-1) if figure.axes[-1:] == (REGION_NAMES,) else None
    return _by_name(statistic(), means, figure.axes, seed)


def _by_name(
    found: Estimate, means: Estimate | None, axes: Sequence[Sequence[str]], seed: int
) -> Scores:
    if not axes:
        return _values(found, seed)
    last = len(axes) == 1
    named = {
        name: _by_name(
            _at(found, i), None if means is None or last else _at(means, i), axes[1:], seed
        )
        for i, name in enumerate(axes[0])
    }
    return named | ({"mean": _values(means, seed)} if means is not None and last else {})


def _at(found: Estimate, index: int) -> Estimate:
    return Estimate(*(array[index] for array in found))


def _values(found: Estimate, seed: int) -> Scores:
    """An estimate as JSON: null for what does not exist."""
    *numbers, count = (float(value) for value in found)
    values = dict(zip(Estimate._fields, numbers, strict=False))
    return {name: value if math.isfinite(value) else None for name, value in values.items()} | {
        "count": int(count),
        "seed": seed,
    }


def _table_1(groups: Scores) -> Scores:
    """What the paper's table 1 has of a system: None where it was not measured."""
    return {
        "fid": groups.get("realism", {}).get("fid"),
        "lpips": groups.get("edit", {}).get("lpips_alexnet", {}).get("mean"),
        "seconds": _mean_time([*groups.get("time", {}).values()]),
    }


def _mean_time(timings: Sequence[Mapping[str, float]]) -> Scores | None:
    """Of all regions' timings; their counts added up."""
    if not timings:
        return None
    means = {
        name: sum(timing[name] for timing in timings) / len(timings)
        for name in ("median", "low", "high")
    }
    return means | {"count": sum(timing["count"] for timing in timings)}
