"""How far pictures are from what they should show: L1, PSNR and SSIM of each."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "B H W 3"]

# Where PSNR ends: identical images have no noise at all, and shall not make a mean infinite.
MOST_DECIBELS = 100.0

# SSIM's window: an 11x11 Gaussian of deviation 1.5 is the outer product of these taps.
_WINDOW = 11
_TAPS = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_TAPS = (_TAPS / _TAPS.sum()).astype(np.float32)

# (K L)^2 of values L = 2 apart at most.
_C1, _C2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2


def l1(found: Images, truth: Images) -> Float[Array, " B"]:
    """Mean absolute error of images in [-1, 1]: from 0 to 2."""
    return jnp.mean(jnp.abs(found - truth), axis=(1, 2, 3))


def psnr(found: Images, truth: Images) -> Float[Array, " B"]:
    """Peak signal-to-noise ratio of images in [-1, 1], in dB: 10 log10(2^2 / mean squared error).

    At most 100, which identical images have, and those less than 0.003 levels of 255 apart.
    """
    error = jnp.mean(jnp.square(found - truth), axis=(1, 2, 3))
    least = 4.0 * 10.0 ** (-MOST_DECIBELS / 10.0)
    return 10.0 * jnp.log10(4.0 / jnp.maximum(error, least))


def ssim(found: Images, truth: Images) -> Float[Array, " B"]:
    """Structural similarity (Wang et al., 2004) of images in [-1, 1]: 1 for identical ones.

    A Gaussian 11x11 window of deviation 1.5, K1 = 0.01, K2 = 0.03; luminance is measured from
    black. The mean over channels and over all places where the window lies within the picture:
    scikit-image's figure with `gaussian_weights=True, use_sample_covariance=False`, for values in
    [0, 1] and their `data_range`.

    Raises:
      ValueError: images smaller than the window.
    """
    height, width = found.shape[1:3]
    if min(height, width) < _WINDOW:
        raise ValueError(
            f"images of {height} x {width} pixels: SSIM's window is {_WINDOW} x {_WINDOW}, give "
            "images of at least that size"
        )
    mean_x, mean_y = _windowed(found), _windowed(truth)
    shift = mean_x - mean_y
    # 2 mx my = mx^2 + my^2 - (mx - my)^2, and 2 cov = var x + var y - var(x - y): written so, what
    # float32 rounds off vanishes as images become alike. It reached 3e-4 where they are bright.
    variances = _windowed(found**2 + truth**2) - mean_x**2 - mean_y**2
    of_difference = _windowed((found - truth) ** 2) - shift**2
    luminance = 1.0 - shift**2 / ((mean_x + 1.0) ** 2 + (mean_y + 1.0) ** 2 + _C1)
    structure = 1.0 - of_difference / (variances + _C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _windowed(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Means by the Gaussian window, wherever it lies within the picture."""
    for axis in (1, 2):
        length = x.shape[axis] - _WINDOW + 1
        x = sum(tap * lax.slice_in_dim(x, i, i + length, axis=axis) for i, tap in enumerate(_TAPS))
    return x
