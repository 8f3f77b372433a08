"""Distances between two sets of images, from their Inception features: FID and KID.

All in float64 on the host.
"""

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import lapack

_ROWS = 1000  # of a kernel's matrix, made at a time: 40 MB of 5000 columns

# ---------------------------------------------------------------------------------------------- FID


@dataclass(frozen=True, eq=False)
class Moments:
    """What FID needs to know of a set of features; sets join by `a + b`, and part by `a - b`.

    The sums are of the features as they are, not of their distances from a mean, so that adding up
    is exact to rounding in any order. Of float64's 16 digits the covariance loses by that as many
    as mean^2 / variance has: one or two, for what comes from a ReLU.

    Attributes:
      count: how many features.
      total: their sum.
      products: the sum of their outer products.
    """

    count: int
    total: Float[np.ndarray, " D"]
    products: Float[np.ndarray, "D D"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"]) -> "Moments":
        """The moments of some features.

        Raises:
          ValueError: not a matrix, or with values that are not finite.
        """
        features = _checked(features).astype(np.float64)
        return cls(len(features), features.sum(axis=0), features.T @ features)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count - other.count, self.total - other.total, self.products - other.products
        )

    @property
    def mean(self) -> Float[np.ndarray, " D"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "D D"]:
        """The unbiased estimate, which divides by `count - 1`."""
        if self.count < 2:
            raise ValueError(f"the covariance of {self.count} features; want 2 or more")
        return (self.products - np.outer(self.total, self.mean)) / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """FID: the squared Fréchet distance of two Gaussians with these moments (Heusel et al. 2017).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), where the trace of the root is the sum of the
    roots of A B's eigenvalues. With A = L L^T these are the eigenvalues of the symmetric L^T B L,
    which has as many rows as A has rank: the fewer images, the faster, and no root of a singular
    matrix is needed.

    Raises:
      ValueError: features of unequal length, or fewer than two of them.
    """
    _check_lengths(a.total.size, b.total.size)
    a, b = sorted((a, b), key=lambda moments: moments.count)
    covariance_a, covariance_b = a.covariance, b.covariance
    factor = _factor(covariance_a)
    eigenvalues = np.linalg.eigvalsh(factor.T @ covariance_b @ factor)
    root_trace = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(covariance_a) + np.trace(covariance_b)
    return max(0.0, float(distance - 2.0 * root_trace))


def _factor(covariance: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D r"]:
    """L of L L^T = covariance and of its rank: Cholesky's, largest pivots first."""
    lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(lower[:, :rank])
    return factor


def frechet_jackknife(
    blocks_a: Sequence[Moments], blocks_b: Sequence[Moments]
) -> tuple[float, Float[np.ndarray, " K"]]:
    """FID of two sets given in blocks, and what it is without each block in turn.

    Blocks are about equally large, and block i of one set belongs to block i of the other, as
    images do to their edits: both are left out together. `jackknife_error` makes a standard error
    of the latter and, of their difference between two systems with the same blocks of images, that
    of the paired difference.

    Raises:
      ValueError: not as many blocks in one set as in the other, or fewer than two; or what
        `frechet_distance` raises.
    """
    count = len(blocks_a)
    if count != len(blocks_b) or count < 2:
        raise ValueError(f"{count} and {len(blocks_b)} blocks; want as many in both, 2 or more")
    whole_a, whole_b = (functools.reduce(operator.add, blocks) for blocks in (blocks_a, blocks_b))
    left_out = [
        frechet_distance(whole_a - a, whole_b - b) for a, b in zip(blocks_a, blocks_b, strict=True)
    ]
    return frechet_distance(whole_a, whole_b), np.array(left_out)


def jackknife_error(left_out: Float[np.ndarray, " K"]) -> float:
    """Standard error of an estimate from its values, or changes, with each of K parts left out."""
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


# ---------------------------------------------------------------------------------------------- KID


def kernel_distance(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "M D"],
    subsets: int = 10,
    subset_size: int = 5000,
    seed: int = 0,
    images: tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]] | None = None,
) -> tuple[float, float]:
    """KID: squared maximum mean discrepancy, kernel (x.y/D + 1)^3 (Bińkowski et al. 2018).

    The mean kernel of two of x, plus that of two of y, less twice that of one of x and one of y,
    each over the pairs *of different images*: a picture is more like its original, and like other
    edits of that, than two pictures by chance are. The expectation is that of sets without an image
    in common, and 0 for y that are x, as often each; an image counts by its pictures.

    Of sets of up to `subset_size` all pairs are taken, and of y that are x the estimate is 0 to
    rounding. Of larger ones it is the mean over random subsets, of each set on its own. The error
    is the delete-one jackknife's: what leaving out each image, in both sets, does to that mean. The
    deviation over subsets, often given instead, says little of the images. For sets of one
    distribution the error is somewhat large.

    Args:
      x, y: features.
      subsets: how many subsets, if not all fit one.
      subset_size: features of either set in a subset, if there are as many; time goes with its
        square, memory does not.
      seed: of the choice of subsets.
      images: the number of the image that each of x, and each of y, comes from. By default x[i] and
        y[i] come from one if N = M, else each has its own.

    Returns:
      The estimate, which may be below 0, and its standard error.

    Raises:
      ValueError: features that are not finite or of unequal length; no subsets; features of fewer
        than 3 images in one; numbers of images that are not one for each.
    """
    x, y = _checked(x), _checked(y)
    _check_lengths(x.shape[1], y.shape[1])
    if images is None:
        images = np.arange(len(x)), np.arange(len(y)) + (len(x) if len(x) != len(y) else 0)
    if [len(numbers) for numbers in images] != [len(x), len(y)]:
        counts = " and ".join(str(len(numbers)) for numbers in images)
        raise ValueError(f"numbers of {counts} images; want {len(x)} and {len(y)}")
    if subsets < 1:
        raise ValueError(f"{subsets} subsets; want 1 or more")
    if max(len(x), len(y)) <= subset_size:
        subsets = 1
    every, image = np.unique(np.concatenate(images), return_inverse=True)
    of_x, of_y = np.split(image, [len(x)])
    rng = np.random.default_rng(seed)
    estimates, changes = np.zeros(subsets), np.zeros(len(every))
    for k in range(subsets):
        in_x, in_y = (
            rng.choice(len(features), min(subset_size, len(features)), replace=False)
            for features in (x, y)
        )
        estimates[k], without = _discrepancy(x[in_x], y[in_y], of_x[in_x], of_y[in_y], len(every))
        changes += (without - estimates[k]) / subsets
    return float(estimates.mean()), jackknife_error(changes)


def _discrepancy(
    x: Float[np.ndarray, "S D"],
    y: Float[np.ndarray, "T D"],
    of_x: Int[np.ndarray, " S"],
    of_y: Int[np.ndarray, " T"],
    count: int,
) -> tuple[float, Float[np.ndarray, " I"]]:
    """The estimate of all pairs of different images, and what it is without each of `count`."""
    for of in (of_x, of_y):
        if (found := len(np.unique(of))) < 3:  # without one there is still a pair of two
            raise ValueError(f"{len(of)} features of {found} images in a subset; want 3 or more")
    x, y = x.astype(np.float64), y.astype(np.float64)
    pairs = (x, x, of_x, of_x), (y, y, of_y, of_y), (x, y, of_x, of_y)
    within_x, within_y, across = (_mean_kernel(*pair, count) for pair in pairs)
    return tuple(a + b - 2.0 * c for a, b, c in zip(within_x, within_y, across, strict=True))


def _mean_kernel(
    x: Float[np.ndarray, "S D"],
    y: Float[np.ndarray, "T D"],
    of_x: Int[np.ndarray, " S"],
    of_y: Int[np.ndarray, " T"],
    count: int,
) -> tuple[float, Float[np.ndarray, " I"]]:
    """Mean kernel over pairs of different images, and that without each of `count` images."""
    by_row, by_column = np.zeros(len(x)), np.zeros(len(y))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        kernel = _kernel(x[rows], y)
        kernel[of_x[rows, None] == of_y] = 0.0
        by_row[rows] = kernel.sum(axis=1)
        by_column += kernel.sum(axis=0)
    in_x, in_y = (np.bincount(of, minlength=count) for of in (of_x, of_y))
    total, pairs = by_row.sum(), len(x) * len(y) - in_x @ in_y
    # An image has a part in a pair by x or by y, and never by both.
    its_total = np.bincount(of_x, by_row, count) + np.bincount(of_y, by_column, count)
    its_pairs = in_x * (len(y) - in_y) + in_y * (len(x) - in_x)
    return total / pairs, (total - its_total) / (pairs - its_pairs)


def _kernel(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    base = x @ y.T / x.shape[1] + 1.0
    return base * base * base  # a power of an array takes many times as long


# ------------------------------------------------------------------------------------------- checks


def _checked(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"features of shape {features.shape}; want [N, D]")
    if not np.isfinite(features).all():
        raise ValueError("features that are not finite numbers; want finite ones")
    return features


def _check_lengths(a: int, b: int) -> None:
    if a != b:
        raise ValueError(f"features of {a} and of {b} values; want as many in both sets")
