"""report.md: what was measured, in tables and plain words."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from l2sae_jax.evaluation.figures import LABELS
from l2sae_jax.regions import REGION_NAMES

Scores = Mapping[str, Any]


class _Line(NamedTuple):
    """A figure of the report: its name in its group, what it is called, and its decimals."""

    name: str
    title: str
    decimals: int = 3


class _Section(NamedTuple):
    """A table with a line for each figure and system, and what its figures mean.

    `columns` are keys of a figure; without any there is one, the figure itself.
    """

    title: str
    group: str
    columns: tuple[str, ...]
    lines: tuple[_Line, ...]
    meaning: str


_REGIONS = (*REGION_NAMES, "mean")

_SECTIONS = (
    _Section(
        "Masks",
        "segmentation",
        _REGIONS,
        (
            _Line("iou", "IoU ↑"),
            _Line("f1", "F1 ↑"),
            _Line("boundary_f", "boundary F, 2 px ↑"),
        ),
        "Masks found against true ones. IoU and F1 are of the pixels of all images together; the "
        "boundary F measure is an image's own, matched within 2 pixels, and averaged over the "
        "images that have the region or were thought to; the smaller the pictures, the more "
        "lenient are 2 pixels. Masks of a model may overlap, those of label maps cannot.",
    ),
    _Section(
        "Edits",
        "edit",
        _REGIONS,
        (
            _Line("change_inside", "change inside", 2),
            _Line("change_band", "change in the band", 2),
            _Line("change_outside", "change outside ↓", 2),
            _Line("locality", "locality ↑"),
            _Line("lpips_inside", "LPIPS inside"),
            _Line("lpips_alexnet", "LPIPS"),
            _Line("region_iou", "region kept, IoU ↑"),
            _Line("structure_iou", "all regions kept, IoU ↑"),
            _Line("diversity", "diversity, LPIPS ↑"),
        ),
        "One edit of each region of each image. Changes are mean absolute differences, in levels "
        "of 255, inside the region's *true* mask, in a band of {band} px round it, and outside "
        "both; locality is the share of the one inside in the sum of those inside and outside. "
        "LPIPS (AlexNet) is of the whole picture, and LPIPS inside of a picture changed inside the "
        "true mask alone. What decoding and blending change by themselves counts as well: see "
        "strength 0 below. "
        "Regions kept: masks found in the edit against those found in the original, by {judge}. "
        "Diversity: LPIPS between edits of the same region by different noise.",
    ),
    _Section(
        "Strength",
        "sweep",
        _REGIONS,
        (
            _Line("change_inside", "change inside", 2),
            _Line("change_outside", "change outside ↓", 2),
            _Line("lpips_inside", "LPIPS inside"),
        ),
        "The same by the strength of the noise. At strength 0 the style stays as it is: what is "
        "told there is what decoding and blending change by themselves, and no edit.",
    ),
    _Section(
        "Swaps",
        "swap",
        _REGIONS,
        (
            _Line("mse_src", "MSE_src ↓", 4),
            _Line("mse_ref", "MSE_ref ↓", 4),
            _Line("mse_ref_before", "MSE_ref of the original", 4),
        ),
        "Each region in the style of the next image of the data set. As in StyleMapGAN: mean "
        "squared errors in [-1, 1] against the original outside both images' true masks of the "
        "region, and against the reference within them. StyleMapGAN chose pairs whose masks agree "
        "most, so its published figures are not comparable.",
    ),
    _Section(
        "Reconstruction",
        "reconstruction",
        (),
        (
            _Line("l1", "L1 ↓", 4),
            _Line("psnr", "PSNR, dB ↑", 2),
            _Line("ssim", "SSIM ↑"),
            _Line("lpips_alexnet", "LPIPS, AlexNet ↓"),
            _Line("lpips_vgg16", "LPIPS, VGG16 ↓"),
        ),
        "Images encoded and decoded, in full. L1 is on the scale from -1 to 1.",
    ),
)


def report(
    scores: Scores, plots: Mapping[str, Path], sheets: Mapping[str, Path], folder: Path
) -> str:
    """The text of the report; pictures are named relative to `folder`."""
    systems = scores["systems"]
    parts = ["# Evaluation", _opening(scores), *_table_1(scores)]
    for section in _SECTIONS:
        parts += _section(section, scores)
        if section.group == "segmentation":
            for name, groups in systems.items():
                parts += _matrices(name, groups.get("segmentation", {}))
    parts += [*_realism(scores), *_time(systems)]
    for title, pictures in (("Plots", plots), ("Best, median and worst", sheets)):
        if pictures:
            parts.append(f"## {title}")
            parts += [
                f"{_plain(caption)}\n\n"
                f"![{_plain(caption)}]({quote(file.relative_to(folder).as_posix())})"
                for caption, file in pictures.items()
            ]
    if scores["notes"]:
        parts += ["## Notes", "\n".join(f"- {line}" for line in scores["notes"])]
    return "\n\n".join(parts) + "\n"


def summary(scores: Scores) -> str:
    """The figures of each system that tell most, in a line each."""
    lines = []
    for name, groups in scores["systems"].items():
        told = [
            f"{title} {_shown(_found(groups, path), decimals)}"
            for title, path, decimals in _SUMMARY
            if _found(groups, path) is not None
        ]
        lines.append(f"{name}: {', '.join(told)}")
    return "\n".join(lines)


_SUMMARY = (
    ("IoU", ("segmentation", "iou", "mean"), 3),
    ("reconstruction L1", ("reconstruction", "l1"), 4),
    ("change inside", ("edit", "change_inside", "mean"), 2),
    ("outside", ("edit", "change_outside", "mean"), 2),
    ("LPIPS", ("table_1", "lpips"), 3),
    ("FID", ("table_1", "fid"), 2),
)


def _found(groups: Scores, path: Iterable[str]) -> Any:
    for name in path:
        groups = (groups or {}).get(name)
    return groups


def _opening(scores: Scores) -> str:
    data, about = scores["data"], scores["about"]
    settings = "; ".join(f"{name} {_told(value)}" for name, value in scores["protocol"].items())
    systems = "\n".join(
        f"- {_plain(name)}: {_plain(', '.join(f'{k} {v}' for k, v in what.items()))}"
        for name, what in about["systems"].items()
    )
    instruments = ", ".join(f"{name} {value}" for name, value in about["instruments"].items())
    return (
        f"{data['images']} {data['split']} images of {data['size']} x {data['size']} px, on "
        f"{about['date']}; {about['device']}, JAX {about['jax']}, l2sae_jax {about['version']}."
        f"\n\n{systems}\n\n"
        "Figures are followed by their standard errors over images, by bootstrap; `scores.json` "
        "has 95 % intervals. Arrows say which way is better. Means are of all five regions."
        f"{_comparison(scores)}\n\n"
        f"Protocol: {settings}. Instruments: {instruments or 'none'}.\n\n    {about['command']}"
    )


def _comparison(scores: Scores) -> str:
    if not scores["differences"]:
        return ""
    return (
        f" Lines that end in *less {_plain(next(iter(scores['systems'])))}* are differences on the "
        "same images, with their 95 % intervals; of so many, one in twenty leaves out 0 by chance."
    )


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --------------------------------------------------------------------------------------- sections


def _table_1(scores: Scores) -> list[str]:
    rows = []
    for name, paper in scores["paper"].items():
        rows.append([name, f"{paper['fid']}", f"{paper['lpips']}", f"{paper['seconds']}"])
    for name, groups in scores["systems"].items():
        row = groups["table_1"]
        rows.append(
            [name, _shown(row["fid"], 2), _shown(row["lpips"], 3), _seconds(row["seconds"])]
        )
    return [
        "## Table 1 of the paper",
        _table(["", "FID ↓", "LPIPS", "seconds an edit ↓"], rows),
        "The paper's rows are of 862 images of CelebAMask-HQ, at its own size and on its own "
        "hardware; print has their FID and LPIPS interchanged. The others: FID between the "
        "originals and the edits of all regions, LPIPS (AlexNet) of an original and its edit, the "
        "time of one edit, warm.",
    ]


def _section(section: _Section, scores: Scores) -> list[str]:
    rows = []
    for line in section.lines:
        rows += _rows(section, line, scores["systems"], _shown, named=len(scores["systems"]) > 1)
        rows += _rows(section, line, scores["differences"], _apart, named=True)
    if not rows:
        return []
    accuracies = [
        f"Pixel accuracy over {len(LABELS)} labels, {_plain(name)}: "
        f"{_shown(groups['segmentation']['pixel_accuracy'], 4)}."
        for name, groups in scores["systems"].items()
        if section.group == "segmentation" and "segmentation" in groups
    ]
    return [
        f"## {section.title}",
        _table(["", *(section.columns or ["all"]), "images"], rows),
        "\n\n".join([section.meaning.format(**scores["data"]), *accuracies]),
    ]


def _rows(
    section: _Section,
    line: _Line,
    systems: Mapping[str, Any],
    show: Callable[..., str],
    named: bool,
) -> list[list[str]]:
    """A figure of every system that has it, or of every difference; by strength, a line each."""
    rows = []
    for name, groups in systems.items():
        figure = groups.get(section.group, {}).get(line.name)
        if figure is None:
            continue
        title = f"{line.title}, {name}" if named else line.title
        by_strength = figure.items() if section.group == "sweep" else [(None, figure)]
        for strength, told in by_strength:
            cells = [told[column] for column in section.columns] if section.columns else [told]
            end = "" if strength is None else f", strength {strength}"
            shown = [show(cell, line.decimals) for cell in cells]
            rows.append([title + end, *shown, _counts(cells)])
    return rows


def _matrices(name: str, segmentation: Mapping[str, Any]) -> list[str]:
    parts = []
    if "leakage" in segmentation:
        parts += [
            f"### Leakage of slices, {_plain(name)}",
            _matrix(segmentation["leakage"], "slice"),
            "How much of a true region's pixels (column) the mask decoded from a slice (row) "
            "covers. Where every slice holds its own region alone it is 1 there and 0 elsewhere.",
        ]
    if "confusion" in segmentation:
        parts += [
            f"### Confusion, {_plain(name)}",
            _matrix(segmentation["confusion"], "true"),
            "Which label the pixels of a true label (row) are given, as shares. Where masks "
            "overlap the label is that of the part in front.",
        ]
    return parts


def _matrix(figure: Mapping[str, Any], corner: str) -> str:
    rows = [[row, *(_shown(cells[name], 3) for name in LABELS)] for row, cells in figure.items()]
    return _table([corner, *LABELS], rows)


def _realism(scores: Scores) -> list[str]:
    columns = ["FID ↓", "KID ↓", "FID of reconstructions ↓", *(f"FID, {r} ↓" for r in REGION_NAMES)]
    rows, by_strength = [], []
    for systems, show in ((scores["systems"], _shown), (scores["differences"], _apart)):
        for name, groups in systems.items():
            found = groups.get("realism")
            if not found:
                continue
            by_region = found.get("fid_by_region", {})
            cells = [show(found.get("fid"), 2), show(found.get("kid"), 4)]
            cells.append(show(found.get("fid_reconstruction"), 2))
            rows.append([name, *cells, *(show(by_region.get(r), 2) for r in REGION_NAMES)])
            by_strength += [
                [f"{name}, strength {strength}", show(one, 2)]
                for strength, one in found.get("fid_by_strength", {}).items()
            ]
    if not rows:
        return []
    return [
        "## Realism",
        _table(["", *columns], rows),
        *([_table(["", "FID ↓"], by_strength)] if by_strength else []),
        "Distances between the Inception features of the originals and of the edits of all regions "
        "together, or of one region. The originals are the very images that were edited, so a "
        "weaker edit is nearer to them, and none is nearest: compare edits of like strength, "
        "and with strength 0. FID grows as images grow fewer: compare figures of the same number "
        "only. Standard errors are jackknife estimates, for FID over tenths of the images.",
    ]


def _time(systems: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, *(_seconds(groups["time"][region]) for region in REGION_NAMES)]
        for name, groups in systems.items()
        if "time" in groups
    ]
    if not rows:
        return []
    return [
        "## Seconds an edit",
        _table(["", *REGION_NAMES], rows),
        "Medians of one warm edit of one image on one device, image and result in its memory; in "
        "brackets what nine in ten lie between.",
    ]


# ----------------------------------------------------------------------------------------- tables


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Text whose characters Markdown takes as they are, in one line."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(text.split()))


def _counts(estimates: Iterable[Mapping[str, Any]]) -> str:
    counts = {estimate["count"] for estimate in estimates}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _shown(estimate: Mapping[str, Any] | None, decimals: int) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    value, error = (estimate[name] for name in ("value", "standard_error"))
    return f"{value:.{decimals}f}" + ("" if error is None else f" ± {error:.{decimals}f}")


def _apart(estimate: Mapping[str, Any] | None, decimals: int) -> str:
    if estimate is None or estimate["low"] is None:
        return "-"
    value, low, high = (f"{estimate[name]:+.{decimals}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _seconds(timing: Mapping[str, Any] | None) -> str:
    if timing is None:
        return "-"
    return f"{timing['median']:.3g} ({timing['low']:.3g} to {timing['high']:.3g})"
