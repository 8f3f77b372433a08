"""How sure a figure is: bootstrap over images (Efron, 1979), on the host in float64.

Every figure of a report is a ratio of two sums over images. Resamples draw as many images as there
are, with replacement; the figure's spread over them is what another set of images would change.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

_BLOCK = 4_000_000  # weights made float64 at a time: 32 MB
_PERCENTILES = (2.5, 97.5)


class Ratio(NamedTuple):
    """What a figure is made of: the sum of numerators over images by that of denominators.

    Attributes:
      numerator: of each image, NaN where the image has none and does not count; further axes are
        as many figures.
      denominator: of each image, not negative. Fewer axes, axes of length 1 or one number serve
        several figures or images alike; 1 makes a mean over images.
    """

    numerator: Float[np.ndarray, "N ..."]
    denominator: Float[np.ndarray, "N ..."] | float = 1.0


class Estimate(NamedTuple):
    """Figures and how sure they are; all arrays of one shape, numbers where it is ().

    Attributes:
      value: of all images; NaN where none counts.
      standard_error: standard deviation over resamples.
      low, high: 95 % interval, the percentiles 2.5 and 97.5 of resamples.
      count: how many images count. Of fewer than two there is no error and no interval, but NaN.
    """

    value: Float[np.ndarray, "..."]
    standard_error: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    count: Int[np.ndarray, "..."]


def estimate(
    ratio: Ratio, *, mean_over: int | None = None, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """A figure of all images, its bootstrap standard error and 95 % interval.

    A resample in which a figure does not exist, its denominators being all 0, is left out.

    Args:
      ratio: what the figure is made of; of several figures with further axes.
      mean_over: which of the figures' axes to average: a mean IoU over regions, say. Where one of
        its figures does not exist, of all images, the mean does not either and no image counts for
        it; else an image counts that does for any. Figures that do not exist in a resample are left
        out of its mean.
      resamples: how many; at least 2.
      seed: draws them; with the same seed and number of images they are the same.

    Raises:
      ValueError: no images, fewer than 2 resamples, or shapes that do not match.
    """
    return _summary(*_figures(_aligned(ratio), resamples, seed), mean_over)


def difference(
    a: Ratio, b: Ratio, *, mean_over: int | None = None, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """How much greater figure a is than b on the same images, in the same order.

    Both are resampled together, so what makes an image hard for both does not blur the difference.
    Where either is NaN in an image neither figure is taken over it, so a difference is never one of
    images. `count` is of images that count for both.

    Args:
      a, b: as many images each, and as many figures.
      mean_over: as for `estimate`; a difference exists where both figures do.
      resamples, seed: as for `estimate`.

    Raises:
      ValueError: as for `estimate`, or numbers of images or figures that differ.
    """
    a, b = _aligned(a), _aligned(b)
    if a.numerator.shape != b.numerator.shape:
        raise ValueError(
            f"images and figures {a.numerator.shape} against {b.numerator.shape}: a paired "
            "difference needs the same ones"
        )
    # A denominator of 0 is no lack: of a region that is nowhere in an image, only one system may
    # have found something there, and has to answer for it.
    lacking = np.isnan([*a, *b]).any(axis=0)
    figures, counted = zip(
        *(
            _figures(Ratio(np.where(lacking, np.nan, x.numerator), x.denominator), resamples, seed)
            for x in (a, b)
        ),
        strict=True,
    )
    return _summary(figures[0] - figures[1], counted[0] & counted[1], mean_over)


@lru_cache(maxsize=1)
def weights(count: int, resamples: int = 1000, seed: int = 0) -> UInt8[np.ndarray, "S N"]:
    """How often each of `count` images is drawn in each resample; not to be written to.

    The last ones asked for are kept: 30 MB for 1000 resamples of 30,000 images.
    """
    generator = np.random.default_rng(seed)
    # A byte is enough: that an image is drawn 256 times has a probability below 1e-500.
    drawn = np.empty((resamples, count), np.uint8)
    for row in drawn:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    drawn.setflags(write=False)
    return drawn


def _figures(ratio, resamples, seed):
    """Figures of all images and, below them, of each resample; and which images count."""
    numerator, denominator = ratio
    if not len(numerator) or resamples < 2:
        raise ValueError(
            f"{len(numerator)} images and {resamples} resamples: expected 1 and 2 or more"
        )
    counts = ~np.isnan(numerator) & (denominator > 0)
    sums = [
        _sums(np.where(counts, values, 0.0), resamples, seed) for values in (numerator, denominator)
    ]
    exists = sums[1] > 0
    return np.where(exists, sums[0] / np.where(exists, sums[1], 1.0), np.nan), counts


def _aligned(ratio):
    """A ratio in float64, numerator and denominator of the same shape."""
    numerator = np.asarray(ratio.numerator, np.float64)
    denominator = np.asarray(ratio.denominator, np.float64)
    if denominator.ndim:  # further axes are the figures', not the images'
        missing = numerator.ndim - denominator.ndim
        denominator = denominator.reshape(denominator.shape + (1,) * missing)
    return Ratio(numerator, np.broadcast_to(denominator, numerator.shape))


def _sums(values, resamples, seed):
    """Sums over images of `values`, first over all and then over each resample."""
    flat = values.reshape(len(values), -1)
    drawn = weights(len(values), resamples, seed)
    rows = max(_BLOCK // len(values), 1)
    blocks = [drawn[i : i + rows].astype(np.float64) @ flat for i in range(0, resamples, rows)]
    return np.concatenate([flat.sum(axis=0)[None], *blocks]).reshape(-1, *values.shape[1:])


def _mean(figures, axis):
    """Mean of those that are not NaN, NaN where none is; and how many there are."""
    known = ~np.isnan(figures)
    count = known.sum(axis=axis)
    total = np.where(known, figures, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def _averaged(figures, counted, mean_over):
    """Means over one of the figures' axes, and which images count for them."""
    axis = np.arange(1, figures.ndim)[mean_over]
    # Means of different regions are not to be compared: one that lacks any is none at all.
    complete = ~np.isnan(figures[0]).any(axis=axis - 1)
    means = _mean(figures, axis)[0]
    return np.where(complete, means, np.nan), counted.any(axis=axis) & complete


def _summary(figures, counted, mean_over):
    """An estimate of figures, of all images and of each resample, `[1 + S, *T]`."""
    if mean_over is not None:
        figures, counted = _averaged(figures, counted, mean_over)
    value, resampled = figures[0], figures[1:]
    count = counted.sum(axis=0)
    mean, known = _mean(resampled, axis=0)
    variance = _mean((resampled - mean) ** 2, axis=0)[0] * known / np.maximum(known - 1, 1)
    sure = (count >= 2) & (known >= 2)
    quantiles = np.nanpercentile(np.where(sure, resampled, 0.0), _PERCENTILES, axis=0)
    error, low, high = (np.where(sure, x, np.nan) for x in (np.sqrt(variance), *quantiles))
    return Estimate(*(x[()] for x in (value, error, low, high, count)))
