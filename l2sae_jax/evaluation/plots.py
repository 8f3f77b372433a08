"""Plots of what was measured: IoU per region; locality and FID against the strength of an edit.

Needs matplotlib, of the extra "eval"; its settings and global state are left alone.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from l2sae_jax.regions import REGION_NAMES
from l2sae_jax.whole_files import replacing

_WIDTH = 8  # inches: letters are of reading size where a report shows 100 pixels an inch
_DOTS_PER_INCH = 200
_INK, _GRID = "0.25", "0.88"  # of white
_TICKS = 6  # at the most, for the smallest panels have no room for more
_LETTERS = 110  # that a line of a legend holds
_LONGEST = 60  # letters of a name that are shown

_STRENGTH = "strength: standard deviation of the noise"


class _Look(NamedTuple):
    """How a system is drawn, the same in every plot."""

    colour: str
    marker: str


# Colours by Okabe and Ito, which every kind of sight tells apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LOOKS = tuple(map(_Look, _COLOURS, "os^DvP"))


class _Points(NamedTuple):
    """Figures and the ends of their 95 % intervals; NaN where there is none."""

    value: Float[np.ndarray, " P"]
    low: Float[np.ndarray, " P"]
    high: Float[np.ndarray, " P"]


def write_plots(folder: Path, scores: Mapping[str, Any]) -> dict[str, Path]:
    """Draws all systems together: each plot for which any of them has figures.

    Args:
      folder: where to write; made if need be.
      scores: the content of scores.json.

    Returns:
      The files by their titles.

    Raises:
      OSError: a file cannot be written.
    """
    systems = scores["systems"]
    looks = dict(zip(systems, cycle(_LOOKS)))
    written = {}
    for title, (name, draw) in _PLOTS.items():
        figure = draw(systems, looks)
        if figure is not None:
            written[title] = folder / name
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(written[title]) as partial:
                figure.savefig(partial, format="png", dpi=_DOTS_PER_INCH)
    return written


# ------------------------------------------------------------------------------------------ plots


def _iou(systems: Mapping[str, Any], looks: Mapping[str, _Look]) -> Figure | None:
    found = _found(systems, "segmentation", "iou")
    if not found:
        return None
    figure = Figure((_WIDTH, 3), layout="constrained")
    axes = _bare(figure.subplots())
    names = (*REGION_NAMES, "mean")
    places = np.arange(len(names)) + 0.3 * (np.arange(len(names)) == len(REGION_NAMES))
    width = 0.8 / len(found)
    handles = {}
    for number, (system, scores) in enumerate(found.items()):
        points = _points(scores.get(name) for name in names)
        x = places + (number - (len(found) - 1) / 2) * width
        handles[system] = axes.bar(x, points.value, 0.9 * width, color=looks[system].colour)
        axes.vlines(x, points.low, points.high, _INK)
    axes.set_xticks(places, names)
    axes.set_ylim(0, 1)
    axes.set_ylabel("IoU, and its 95 % interval")
    _legend(figure, handles)
    return figure


def _locality(systems: Mapping[str, Any], looks: Mapping[str, _Look]) -> Figure | None:
    zones = {zone: _found(systems, "sweep", f"change_{zone}") for zone in ("inside", "outside")}
    zones = {zone: found for zone, found in zones.items() if found}
    if not zones:
        return None
    figure = Figure((_WIDTH, 0.9 + 2 * len(zones)), layout="constrained")
    shape = len(zones), len(REGION_NAMES)
    panels = figure.subplots(*shape, sharex=True, sharey="row", squeeze=False)
    handles = {}
    for row, (zone, found) in zip(panels, zones.items(), strict=True):
        for axes, region in zip(row, REGION_NAMES, strict=True):
            _bare(axes).tick_params(axis="x", labelsize="small")
            for system, by_strength in found.items():
                at = {strength: scores.get(region) for strength, scores in by_strength.items()}
                handles[system] = _draw_line(axes, at, looks[system])
        row[0].set_ylim(bottom=0)
        row[0].set_ylabel(f"change {zone}\n(levels of 255)")
    for axes, region in zip(panels[0], REGION_NAMES, strict=True):
        axes.set_title(region, fontsize="medium")
    figure.supxlabel(f"{_STRENGTH} (bands: 95 % intervals)", fontsize="medium")
    _legend(figure, handles)
    return figure


def _fid(systems: Mapping[str, Any], looks: Mapping[str, _Look]) -> Figure | None:
    found = _found(systems, "realism", "fid_by_strength")
    if not found:
        return None
    figure = Figure((_WIDTH, 3.2), layout="constrained")
    axes = _bare(figure.subplots())
    handles = {
        system: _draw_line(axes, by_strength, looks[system])
        for system, by_strength in found.items()
    }
    axes.set_ylim(bottom=0)
    axes.set_xlabel(_STRENGTH)
    axes.set_ylabel("FID, and its 95 % interval")
    _legend(figure, handles)
    return figure


_Draw = Callable[[Mapping[str, Any], Mapping[str, _Look]], Figure | None]
_PLOTS: Mapping[str, tuple[str, _Draw]] = {
    "IoU per region": ("iou.png", _iou),
    "Locality against strength, on scales of their own inside and outside": (
        "locality.png",
        _locality,
    ),
    "FID against strength": ("fid.png", _fid),
}


# ------------------------------------------------------------------------------------------ figures


def _found(systems: Mapping[str, Any], group: str, figure: str) -> dict[str, Mapping[str, Any]]:
    """A figure of the systems that have any value of it."""
    found = {name: groups.get(group, {}).get(figure, {}) for name, groups in systems.items()}
    return {name: scores for name, scores in found.items() if _has_value(scores)}


def _has_value(scores: Mapping[str, Any]) -> bool:
    if "value" in scores:
        return scores["value"] is not None
    return any(_has_value(some) for some in scores.values())


def _points(estimates: Iterable[Mapping[str, Any] | None]) -> _Points:
    rows = [[(one or {}).get(key) for key in _Points._fields] for one in estimates]
    return _Points(*np.array(rows, float).T)  # None becomes NaN


# ------------------------------------------------------------------------------------------ drawing


def _bare(axes: Axes) -> Axes:
    """Leaves of a frame what figures are read against."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    return axes


def _draw_line(axes: Axes, by_strength: Mapping[str, Any], look: _Look) -> Line2D:
    strengths = sorted(by_strength, key=float)
    x, points = [float(s) for s in strengths], _points(by_strength[s] for s in strengths)
    axes.fill_between(x, points.low, points.high, color=look.colour, alpha=0.2, linewidth=0)
    # Of a point between gaps there is no band.
    axes.vlines(x, points.low, points.high, look.colour, linewidth=1)
    # A marker may lie on the axis: nothing changes outside a region where the blend is local.
    style = {"color": look.colour, "marker": look.marker, "markersize": 4, "clip_on": False}
    (line,) = axes.plot(x, points.value, **style)
    for unedited in points.value[np.equal(x, 0)]:
        axes.axhline(unedited, color=look.colour, linestyle=":", linewidth=1)
    step = -(-len(x) // _TICKS)
    # What decoding and blending alone change; below the number, as beside it there is no room.
    names = [name if float(name) else f"{name}\nno edit\n(dotted)" for name in strengths]
    axes.set_xticks(x[::step], names[::step])
    return line


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    # A name of bytes that are no letters cannot be drawn, nor can a line break be afforded.
    names = ["".join(c if c.isprintable() else "?" for c in name) for name in handles]
    names = [n if len(n) <= _LONGEST else f"{n[: _LONGEST - 3]}..." for n in names]
    # Between two dollar signs matplotlib would read mathematics.
    labels = [name.replace("$", r"\$") for name in names]
    columns = max(1, _LETTERS // (max(map(len, labels)) + 8))
    place = {"loc": "outside upper center", "ncols": columns, "frameon": False}
    figure.legend(list(handles.values()), labels, **place)
