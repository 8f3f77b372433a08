"""What is measured, on which pictures: a protocol, and the kinds of picture it asks for."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from l2sae_jax.data.sources import SPLITS
from l2sae_jax.matting import check_blend
from l2sae_jax.regions import REGION_NAMES

# What can be measured, in the order of the report.
MEASURES = ("segmentation", "reconstruction", "edit", "sweep", "swap", "realism", "time")

_LIMITS = {"images": (1, 10_000_000), "samples": (1, 10), "seed": (0, 2**32 - 1)}


class Kind(NamedTuple):
    """A kind of picture, of which a system makes one from every image.

    Attributes:
      measure: what it is made for, of `MEASURES`: "reconstruction"; "edit" or "sweep", a region
        restyled by noise; or "swap", a region in the style of the image's reference.
      folder: where such pictures lie, as ID.png, below the folder of a system's pictures.
      region: the position in `REGION_NAMES` of what is edited.
      sample: which draw of the noise.
      strength: standard deviation of the noise.
    """

    measure: str
    folder: str
    region: int = 0
    sample: int = 0
    strength: float = 0.0


@dataclass(frozen=True)
class Protocol:
    """What is measured and how.

    Attributes:
      measures: some of `MEASURES`, whose order they take; "realism" is of the pictures of others.
      images: how many, from the first of the split; all of them where it has fewer.
      split: "train", "validation" or "test".
      strength: of the noise in an edit.
      samples: draws of the noise for each image and region. The figures of an edit are of the
        first; how much the draws differ is measured if there are several.
      strengths: those of the sweep; 0 shows what decoding and blending change by themselves.
      blend, harmonise: how an edit is blended in; see `editing.edit`.
      seed: of the noise, of which every image has its own, and of the resampling.

    Raises:
      ValueError: a value out of range, or an unknown measure, split or blend.
    """

    measures: tuple[str, ...] = MEASURES
    images: int = 300
    split: str = "test"
    strength: float = 0.6
    samples: int = 2
    strengths: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    blend: str = "paper"
    harmonise: bool = False
    seed: int = 0

    def __post_init__(self):
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown or not self.measures:
            what = f"unknown measure {unknown[0]!r}" if unknown else "no measure named"
            raise ValueError(f"{what}: choose from {', '.join(MEASURES)}")
        measures = tuple(name for name in MEASURES if name in self.measures)
        object.__setattr__(self, "measures", measures)
        if "realism" in measures and not {"reconstruction", "edit", "sweep"} & {*measures}:
            raise ValueError("realism is of pictures: name reconstruction, edit or sweep as well")
        if "sweep" in measures and not self.strengths:
            raise ValueError("a sweep without strengths: name some, or leave the sweep out")
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} {value}: expected a number from {least} to {most}")
        for strength in (self.strength, *self.strengths):
            if not (math.isfinite(strength) and strength >= 0):
                raise ValueError(f"strength {strength}: expected a number from 0 up")
        if len({f"{strength:g}" for strength in self.strengths}) < len(self.strengths):
            told = ", ".join(map(str, self.strengths))
            raise ValueError(f"strengths {told}: expected different ones")
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}: choose from {', '.join(SPLITS)}")
        check_blend(self.blend)

    def edits(self, region: int) -> list[Kind]:
        """One kind for each draw of the noise."""
        name = REGION_NAMES[region]
        return [
            Kind("edit", f"{name}_sample{k}" if k else name, region, k, self.strength)
            for k in range(self.samples)
        ]

    def sweep(self, region: int) -> list[Kind]:
        """One kind for each strength."""
        name = REGION_NAMES[region]
        return [Kind("sweep", f"{name}_strength{s:g}", region, 0, s) for s in self.strengths]

    def kinds(self) -> list[Kind]:
        """All that is asked for."""
        found = [reconstruction()]
        for region in range(len(REGION_NAMES)):
            found += [*self.edits(region), *self.sweep(region), swap(region)]
        return [kind for kind in found if kind.measure in self.measures]


def reconstruction() -> Kind:
    """What comes of encoding and decoding."""
    return Kind("reconstruction", "reconstruction")


def swap(region: int) -> Kind:
    """A region in the style of another image."""
    return Kind("swap", f"swap_{REGION_NAMES[region]}", region)


# "paper" is the protocol of the paper's table 1: of 862 test images one style edit a region.
PRESETS = {
    "standard": Protocol(),
    "paper": Protocol(
        measures=("segmentation", "reconstruction", "edit", "realism", "time"),
        images=862,
        samples=1,
        strengths=(),
    ),
}
