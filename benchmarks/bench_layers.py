"""Times the ways to compute the layers where more than one was tried, forward and backward.

python benchmarks/bench_layers.py --json=layers.json

The forms in use are marked *: run it on new hardware to see whether they should be. "With
gradients" counts three times the forward work.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from measuring import Report, arguments, ceilings, measure

from l2sae_jax.nn.convolution import blurred_upsampling, convolve
from l2sae_jax.nn.layers import blur, pad2d, upsample_bilinear

ONE = ((1, 1), (1, 1))
TAPS = (1, 3, 3, 1)


def gradient(function):
    return jax.grad(lambda *given: jnp.sum(jnp.square(function(*given))), argnums=(0, 1))


def plain_convolve(x, kernel, stride=1, padding=((0, 0), (0, 0))):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def transposed_and_blurred(x, kernel):
    """The published order: a transposed convolution, then the blur."""
    y = lax.conv_transpose(
        x, kernel[::-1, ::-1], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return blur(pad2d(y, 1, 1, "constant"), TAPS, gain=4.0)


def resized_and_convolved(x, kernel):
    """What other decoders do; of other values, and four times the work."""
    return plain_convolve(upsample_bilinear(x), kernel, padding=ONE)


def depthwise_blur(x):
    taps = jnp.asarray(TAPS, x.dtype) / sum(TAPS)
    kernel = jnp.outer(taps, taps)[:, :, None, None]
    return lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel, (4, 4, 1, x.shape[-1])),
        (1, 1),
        ONE,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def resize_twice(x):
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


# Of each layer: its work as a share of a 3x3 convolution of stride 1, and its forms.
CONVOLUTIONS = {
    "3x3 convolution without padding": (
        1.0,
        {"* convolve": convolve, "lax.conv_general_dilated": plain_convolve},
    ),
    "3x3 convolution of stride 2 without padding": (
        0.25,
        {
            "* convolve": partial(convolve, stride=2),
            "lax.conv_general_dilated": partial(plain_convolve, stride=2),
        },
    ),
    "doubling convolution and blur": (
        1.0,
        {
            "* four phases": partial(blurred_upsampling, taps=TAPS),
            "transposed convolution, blur": transposed_and_blurred,
            "resize, convolution": resized_and_convolved,
        },
    ),
}
FILTERS = {
    "blur 1-3-3-1": {
        "* shifted adds": lambda x: blur(pad2d(x, 1, 1, "constant"), TAPS),
        "depthwise convolution": depthwise_blur,
    },
    "bilinear doubling": {
        "* shifted averages": upsample_bilinear,
        "jax.image.resize": resize_twice,
    },
}


def main() -> None:
    # Batch, size, channels, features: of the small networks, and of the full-size ones.
    on_cpu = jax.default_backend() == "cpu"
    shapes = ((16, 64, 32, 32), (1, 64, 256, 128) if on_cpu else (8, 128, 512, 256))
    options = arguments(__doc__, dtype="float32", seconds=1.0)
    report = Report("Forms of the layers", options.json)
    report.note("ceilings, GFLOP/s and GB/s", ceilings(options.dtype))
    report.table(
        options.dtype,
        ("layer", "shape", "form", "ms", "GFLOP/s", "ms with gradients", "GFLOP/s with gradients"),
    )
    for batch, size, channels, features in shapes:
        key = jax.random.key(0)
        x = jax.random.normal(key, (batch, size, size, channels), options.dtype)
        kernel = jax.random.normal(key, (3, 3, channels, features), options.dtype)
        shape = f"{batch} x {size} x {size} x {channels}"
        work = 2e-9 * 9 * channels * features * batch * size * size
        for layer, (share, forms) in CONVOLUTIONS.items():
            for name, form in forms.items():
                forward = measure(form, x, kernel, seconds=options.seconds).median_s
                both = measure(gradient(form), x, kernel, seconds=options.seconds).median_s
                rates = (share * work / forward, 3 * share * work / both)
                report.row(layer, shape, name, 1e3 * forward, rates[0], 1e3 * both, rates[1])
        for layer, forms in FILTERS.items():
            for name, form in forms.items():
                forward = measure(form, x, seconds=options.seconds).median_s
                report.row(layer, shape, name, 1e3 * forward, None, None, None)


if __name__ == "__main__":
    main()
