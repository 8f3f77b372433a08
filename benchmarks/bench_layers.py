"""Times the ways to compute the layers where more than one was tried, forward and backward.

python benchmarks/bench_layers.py    # with the package installed

The forms in use are marked *. Each line gives the best of several runs and its share of the
ceiling measured beside it: the matrix product or convolution that runs fastest in the same process.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from l2sae_jax.nn.convolution import convolve, upsampling_convolution
from l2sae_jax.nn.layers import blur, pad2d, upsample_bilinear

REPEATS = 5
ONE = ((1, 1), (1, 1))


def seconds(function, *arguments) -> float:
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def gradient(function):
    return jax.grad(lambda *arguments: jnp.sum(jnp.square(function(*arguments))), argnums=(0, 1))


def plain_convolve(x, kernel, stride=1, padding=((0, 0), (0, 0))):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_upsampling(x, kernel):
    return lax.conv_transpose(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def depthwise_blur(x, taps):
    channels = x.shape[-1]
    taps = jnp.asarray(taps, jnp.float32) / sum(taps)
    kernel = jnp.broadcast_to(jnp.outer(taps, taps)[:, :, None, None], (4, 4, 1, channels))
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def resize_twice(x):
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


def report(title, gigaflop, forms, *arguments, backward=True):
    """Prints a table of the forms; 0 GFLOP prints none."""
    print(f"\n{title}")
    for name, form in forms.items():
        columns = [("forward", form, gigaflop)]
        if backward:
            columns.append(("with gradients", gradient(form), 3 * gigaflop))
        cells = []
        for label, function, work in columns:
            took = seconds(function, *arguments)
            rate = f" {work / took:6.0f} GFLOP/s" if work else ""
            cells.append(f"{label} {1e3 * took:8.1f} ms{rate}")
        print(f"  {name:32s} " + "   ".join(cells), flush=True)


def main():
    normal = partial(jax.random.normal, jax.random.key(0))
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

    a = normal((2048, 2048))
    print(f"ceiling: matrix product {2 * 2048**3 / 1e9 / seconds(jnp.matmul, a, a):.0f} GFLOP/s")
    x, w = normal((1, 128, 128, 256)), normal((3, 3, 256, 256))
    work = 2 * 9 * 256 * 256 * 128 * 128 / 1e9
    took = seconds(partial(plain_convolve, padding=ONE), x, w)
    print(f"ceiling: 3x3 convolution {work / took:.0f} GFLOP/s")

    x, w = normal((16, 66, 66, 32)), normal((3, 3, 32, 32))
    work = 2 * 9 * 32 * 32 * 64 * 64 * 16 / 1e9
    report(
        "3x3 convolution without padding",
        work,
        {"* convolve": convolve, "lax": plain_convolve},
        x,
        w,
    )
    report(
        "3x3 convolution of stride 2",
        work / 4,
        {"* convolve": partial(convolve, stride=2), "lax": partial(plain_convolve, stride=2)},
        *(x, w),
    )
    x = normal((16, 32, 32, 64))
    w = normal((3, 3, 64, 32))
    report(
        "up-sampling convolution",
        2 * 9 * 64 * 32 * 32 * 32 * 16 / 1e9,
        {"* polyphase": upsampling_convolution, "lax.conv_transpose": plain_upsampling},
        *(x, w),
    )
    taps = (1, 3, 3, 1)
    x = normal((16, 65, 65, 32))
    report(
        "blur",
        0,
        {
            "* shifted adds": lambda x: blur(pad2d(x, 1, 1, "constant"), taps),
            "depthwise convolution": lambda x: depthwise_blur(pad2d(x, 1, 1, "constant"), taps),
        },
        x,
        backward=False,
    )
    report(
        "bilinear doubling",
        0,
        {"* shifted averages": upsample_bilinear, "jax.image.resize": resize_twice},
        normal((16, 32, 32, 32)),
        backward=False,
    )


if __name__ == "__main__":
    main()
