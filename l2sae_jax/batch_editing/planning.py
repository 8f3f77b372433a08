"""Which files are edited, what their results are called, and that none replaces another."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2sae_jax.batch_editing import contact_sheet
from l2sae_jax.batch_editing.manifest import MANIFEST
from l2sae_jax.batch_editing.shots import ALIGNED, Cropping
from l2sae_jax.data.images import find_images
from l2sae_jax.marks import MARKS
from l2sae_jax.variants import MODES, Edit, Variant, variants

Report = Callable[[str], None]

FORMATS = ("png", "jpg", "webp")

_LONGEST_NAME = 90  # bytes, of a photograph and of a reference, where files have 255 in all


@dataclass(frozen=True)
class Plan:
    """An edit with the files it reads and the folder it writes to.

    Attributes:
      photos, references: files by the name their results bear, which no two share.
      cropping: how faces are cut out of them.
      picture_format: of `FORMATS`, what edited pictures are written as.
      grid: whether results are also laid out as a figure.
      mark: of `MARKS`, how results tell that they were edited.

    Raises:
      ValueError: an unknown mark.
    """

    edit: Edit
    photos: Mapping[str, Path]
    references: Mapping[str, Path]
    output: Path
    cropping: Cropping = ALIGNED
    picture_format: str = "png"
    grid: bool = False
    mark: str = "metadata"

    def __post_init__(self):
        if self.mark not in MARKS:
            raise ValueError(f"unknown mark {self.mark!r}: choose from {', '.join(MARKS)}")

    def picture_of(self, name: str, variant: Variant) -> str:
        """The file of one variant of the photograph of this name."""
        return f"{name}_{variant.name}.{self.picture_format}"

    def mask_of(self, name: str, region: str) -> str:
        """The file of one of its regions."""
        return f"{name}_mask_{region}.png"

    def labels_of(self, name: str) -> str:
        """The file of its label map."""
        return f"{name}_labels.png"

    def overlay_of(self, name: str) -> str:
        """The file of its regions in colours over it."""
        return f"{name}_overlay.{self.picture_format}"

    def animation_of(self, name: str, regions: Sequence[str], reference: str) -> str:
        """The file that shows the way to a reference."""
        return f"{name}_{'-'.join(regions)}_to_{reference}.gif"

    def files_of(self, name: str) -> list[Path]:
        """All that is written for the photograph of this name."""
        made = [self.mask_of(name, region) for region in self.edit.regions]
        made += [self.picture_of(name, v) for v in variants(self.edit, self.references)]
        if self.edit.mode == "segment":
            made += [self.labels_of(name), self.overlay_of(name)]
        if self.edit.mode == "interpolate":
            made += [
                self.animation_of(name, regions, reference)
                for regions in self.edit.groups
                for reference in self.references
            ]
        return [self.output / file for file in made]


def plan(
    edit: Edit,
    paths: Sequence[str],
    style_reference: str | None,
    output: Path,
    report: Report,
    cropping: Cropping = ALIGNED,
    picture_format: str = "png",
    grid: bool = False,
    mark: str = "metadata",
) -> Plan:
    """Finds the files, names their results, and makes sure that none of these replaces an input.

    Args:
      paths: photographs, and folders of them; those that do not exist are reported.
      style_reference: a picture or a folder of them, where the mode needs one.
      report: is told, in a line, of every path without a picture.
      cropping, picture_format, grid, mark: see `Plan`.

    Raises:
      ValueError: no photograph, no reference or a superfluous one, an unknown mark, or results that
        would replace an input or one another.
    """
    mode = MODES[edit.mode]
    if mode.needs_reference and style_reference is None:
        raise ValueError(f"mode {edit.mode} needs a style_reference: a picture or a folder")
    if style_reference is not None and not mode.needs_reference:
        raise ValueError(f"mode {edit.mode} takes no style_reference")
    if not paths or "" in (*paths, style_reference):
        raise ValueError("no photograph given: name pictures, or folders of them")
    photos = _find_photos(paths, output, report)
    if not photos:
        raise ValueError("no photograph found")
    references = [] if style_reference is None else _pictures(style_reference, output)
    if mode.needs_reference and not references:
        raise ValueError(f"no style reference found: {style_reference} holds but earlier results")
    named = _by_name(photos), _by_name(references)
    found = Plan(edit, *named, output, cropping, picture_format, grid, mark)
    _check_results(found)
    return found


def _find_photos(paths: Sequence[str], output: Path, report: Report) -> list[Path]:
    found: dict[str, Path] = {}
    for path in paths:
        try:
            found |= {os.path.abspath(photo): photo for photo in _pictures(path, output)}
        except (FileNotFoundError, ValueError) as error:
            report(f"skipped {error}")
    return list(found.values())


def _pictures(path: str, output: Path) -> list[Path]:
    """`find_images`, but where results lie below the folder searched they are left out."""
    found, folder, target = find_images(path), Path(path).resolve(), output.resolve()
    if target == folder or not target.is_relative_to(folder):
        return found
    return [picture for picture in found if not picture.resolve().is_relative_to(target)]


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """Paths by their stem; where others share it, by folder, suffix or number as well."""
    schemes = (
        lambda path: _short(path.stem),
        lambda path: _short(f"{path.absolute().parent.name}-{path.stem}"),
        lambda path: f"{_short(path.stem)}-{path.suffix[1:]}",
    )
    # Some file systems do not tell upper from lower case.
    uses = [Counter(scheme(path).casefold() for path in paths) for scheme in schemes]
    named: dict[str, Path] = {}
    taken = set()
    for path in paths:
        names = [scheme(path) for scheme in schemes]
        unique = [name for name, use in zip(names, uses, strict=True) if use[name.casefold()] == 1]
        numbered = (f"{_short(path.stem)}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain(unique, numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        named[name] = path
    return named


def _short(name: str) -> str:
    """As much of a name as leaves room, in a file's, for all that is put after it."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _check_results(found: Plan) -> None:
    inputs = {_identity(path) for path in (*found.photos.values(), *found.references.values())}
    results = [file for name in found.photos for file in found.files_of(name)]
    (name, uses), *_ = Counter(str(file).casefold() for file in results).most_common(1)
    if uses > 1:
        raise ValueError(f"two results would both be written to {name}: rename an input")
    pages = [page for pages in contact_sheet.PAGES for page in found.output.glob(pages)]
    for file in (*results, *pages, found.output / MANIFEST):
        if file.exists() and _identity(file) in inputs:
            raise ValueError(f"a result would replace the input {file}: give another output folder")


def _identity(path: Path) -> tuple[int, int]:
    """What two paths to one file share, however they are spelt."""
    status = path.stat()
    return status.st_dev, status.st_ino
