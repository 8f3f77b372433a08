"""The content of scores.json: every figure of every system, with its uncertainty."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from l2sae_jax.evaluation.figures import Figure, figures
from l2sae_jax.evaluation.protocol import Protocol
from l2sae_jax.evaluation.realism import realism
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
    sampling = {"resamples": RESAMPLES, "seed": protocol.seed}
    by_system = {name: figures(table, protocol) for name, table in measured.systems.items()}
    systems = {}
    for name, table in measured.systems.items():
        groups = _grouped(
            {
                key: _told(figure, partial(estimate, figure.ratio, **sampling), protocol.seed)
                for key, figure in by_system[name].items()
            }
        )
        if measured.originals is not None:
            found = realism(table, measured.originals, protocol)
            groups["realism"] = _as_values(found, protocol.seed)
        if name in timings:
            groups["time"] = {region: timing._asdict() for region, timing in timings[name].items()}
        systems[name] = groups | {"table_1": _table_1(groups)}
    first, *others = by_system
    differences = {}
    for name in others:
        title = f"{name} less {first}"
        shared = [key for key in by_system[name] if key in by_system[first]]
        pairs = {key: (by_system[name][key], by_system[first][key].ratio) for key in shared}
        differences[title] = _grouped(
            {
                key: _told(
                    figure, partial(difference, figure.ratio, old, **sampling), protocol.seed
                )
                for key, (figure, old) in pairs.items()
            }
        )
    return {"paper": PAPER, "systems": systems, "differences": differences}


def _grouped(by_key: Mapping[str, Any]) -> Scores:
    """A tree of what has names such as "edit.lpips"."""
    groups: Scores = {}
    for key, value in by_key.items():
        group, name = key.split(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _told(figure: Figure, statistic: Callable[..., Estimate], seed: int) -> Scores:
    """The values of a figure by the names along its axes; of regions, with their mean."""
    told = _by_name(statistic(), figure.axes, seed)
    if figure.axes == (REGION_NAMES,):
        told["mean"] = _values(statistic(mean_over=0), seed)
    return told


def _by_name(found: Estimate, axes: Sequence[Sequence[str]], seed: int) -> Scores:
    if not axes:
        return _values(found, seed)
    return {
        name: _by_name(Estimate(*(array[i] for array in found)), axes[1:], seed)
        for i, name in enumerate(axes[0])
    }


def _as_values(tree: Any, seed: int) -> Scores:
    if isinstance(tree, Estimate):
        return _values(tree, seed)
    return {name: _as_values(branch, seed) for name, branch in tree.items()}


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
    timings = groups.get("time", {}).values()
    return {
        "fid": groups.get("realism", {}).get("fid"),
        "lpips": groups.get("edit", {}).get("lpips_alexnet", {}).get("mean"),
        "seconds": (
            timings
            and {
                name: sum(t[name] for t in timings) / len(timings)
                for name in ("median", "low", "high")
            }
        )
        or None,
    }
