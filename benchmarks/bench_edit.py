"""Times edits: by size, batch and dtype, and by how much of the picture they touch.

python benchmarks/bench_edit.py --json=edit.json
python benchmarks/bench_edit.py --networks=full --sizes=512 --batches=1,16 --dtypes=bfloat16

Networks: "full" are those of the published ffhq512, "small" those this package ships. Parameters
and pictures do not matter to the time, but the size of the mask does: these SMPNs find whatever is
bright, so that a picture decides how much of it is edited. Shares are of the ceilings measured in
the same run, for the work of the plain algorithm: whole decodes, nothing skipped.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Ceilings, Report, Timing, arguments, ceilings, compile_for, measure, timed

import l2sae_jax as l2
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig
from l2sae_jax.nn import (
    Architecture,
    DecoderConfig,
    EncoderConfig,
    published_decoder,
    published_encoder,
)
from l2sae_jax.regions import DEFAULT_SLICES, REGION_NAMES
from l2sae_jax.windows import bounds

NETWORKS = {
    "full": (published_encoder(), published_decoder()),
    "small": (
        EncoderConfig((32, 64, 128), 8, (128, 128), 64),
        DecoderConfig(8, 64, (96, 96), (64, 32)),
    ),
}


def encoder_work(config: EncoderConfig, size: int) -> float:
    """GFLOP of an encoding: of its convolutions, two for each multiplication."""
    pixels, widths = size * size, config.widths
    work = 3 * widths[0] * pixels
    for before, after in itertools.pairwise(widths):
        work += 9 * before * before * pixels
        pixels //= 4
        work += 10 * before * after * pixels
    work += widths[-1] * (widths[-1] + config.structure_channels) * pixels
    side, before = size // config.downsampling, widths[-1]
    for after in config.style_widths:
        side = (side - 1) // 2
        work += 9 * before * after * side * side
        before = after
    return 2e-9 * work


def decoder_work(config: DecoderConfig, size: int) -> float:
    """GFLOP of a decoding."""
    pixels = (size >> len(config.up_widths)) ** 2
    before, work = config.structure_channels, 0
    for i, after in enumerate(config.head_widths + config.up_widths):
        doubles = i >= len(config.head_widths)
        work += (9 * before * after + (before != after) * before * after) * pixels
        pixels *= 4 if doubles else 1
        work += 9 * after * after * pixels
        before = after
    return 2e-9 * (work + 3 * before * pixels)


def edit_work(model: L2SAE, size: int) -> float:
    """GFLOP of an edit of one region: both networks encode and decode once."""
    return sum(
        encoder_work(net.config.encoder, side) + decoder_work(net.config.decoder, side)
        for net, side in ((model.smn, size), (model.smpn, size // model.mask_reduction))
    )


def make_model(name: str, size: int, dtype: str, reduction: int = 1) -> L2SAE:
    """An SMN of random parameters with an SMPN that finds what is bright."""
    architecture = Architecture(*NETWORKS[name])
    config = AutoencoderConfig(*NETWORKS[name], size, dtype=dtype)
    sliced = AutoencoderConfig(
        *NETWORKS[name], size // reduction, DEFAULT_SLICES, "masks", dtype=dtype
    )
    random = architecture.init(jax.random.key(0))
    bright = jax.tree_util.tree_map_with_path(_passes_brightness, architecture.parameter_shapes())
    finder = Autoencoder(**bright, config=sliced)
    # What is bright comes out brighter than what is dark comes out dark: the middle becomes 0.
    slice_of_lips = jnp.zeros((1, 4, 4, 8)).at[..., 7].set(1.0)
    white = finder.decode(slice_of_lips, jnp.zeros((1, config.encoder.style_channels)))
    finder.decoder["to_rgb"]["bias"] -= white[0, 0, 0] / 2
    return L2SAE(Autoencoder(**random, config=config), finder, reduction)


def _passes_brightness(path, leaf):
    """Parameters of a network whose skips carry brightness through, beside blocks that say 0."""
    names = [part.key for part in path]
    passing = {"from_rgb", "skip", "structure_hidden", "structure", "to_rgb"}
    one = (names[-1] == "kernel" and names[-2] in passing) or (
        names[-1] == "bias" and names[-2] in ("modulation", "structure_scale")
    )
    return jnp.full(leaf.shape, float(one))


def picture(batch: int, size: int, height: int, width: int) -> jax.Array:
    """Dark noise with a bright rectangle."""
    noise = np.random.default_rng(0).uniform(-1, -0.8, (batch, size, size, 3))
    top, left = (min(size - n, size * at // 8) for n, at in ((height, 4), (width, 3)))
    noise[:, top : top + height, left : left + width] += 1.8
    return jnp.asarray(noise, jnp.float32)


def edit(model: L2SAE, images: jax.Array, masks: jax.Array | None = None) -> jax.Array:
    key = jax.random.key(1)
    return l2.edit(model, images, key, regions=("lips",), blend="local", masks=masks)


def bench_sizes(report: Report, options, ceiling: dict[str, Ceilings]) -> None:
    """Edits of whole pictures."""
    report.table(
        "Edit of a region that is everywhere",
        (
            *("networks", "dtype", "size", "batch", "compile s", "median ms", "p95 ms"),
            *("images/s", "GFLOP/image", "GFLOP/s", "of convolution", "of product", "memory MB"),
        ),
    )
    for name in options.networks:
        for dtype in options.dtypes:
            for size in options.sizes:
                model = make_model(name, size, dtype)
                for batch in options.batches:
                    timing = measure(
                        edit, model, picture(batch, size, size, size), seconds=options.seconds
                    )
                    _row(
                        report,
                        (name, dtype, size, batch),
                        timing,
                        edit_work(model, size) * batch,
                        ceiling[dtype],
                    )


def _row(report, what, timing: Timing, work: float, ceiling: Ceilings) -> None:
    batch, rate = what[-1], work / timing.median_s
    report.row(
        *what,
        timing.compile_s,
        1e3 * timing.median_s,
        1e3 * timing.p95_s,
        batch / timing.median_s,
        work / batch,
        rate,
        rate / ceiling.convolution,
        rate / ceiling.product,
        timing.memory / 1e6,
    )


def bench_parts(report: Report, options, ceiling: dict[str, Ceilings]) -> None:
    """What an edit is made of, at the largest size."""
    size, dtype = max(options.sizes), options.dtypes[0]
    report.table(
        "Parts, batch 1", ("networks", "dtype", "size", "part", "median ms", "of convolution")
    )
    for name in options.networks:
        model = make_model(name, size, dtype)
        encoder, decoder = NETWORKS[name]
        images = picture(1, size, size, size)
        structure, style = jax.jit(l2.encode)(model, images)
        coding, decoding = encoder_work(encoder, size), decoder_work(decoder, size)
        parts = {
            "encode": (l2.encode, (model, images), coding),
            "decode": (l2.decode, (model, structure, style), decoding),
            "segment, 5 regions": (l2.segment, (model, images), coding + 5 * decoding),
        }
        for part, (function, given, work) in parts.items():
            timing = measure(function, *given, seconds=options.seconds)
            share = work / timing.median_s / ceiling[dtype].convolution
            report.row(name, dtype, size, part, 1e3 * timing.median_s, share)


# Shares of the picture's height and width, in eighths, which the coarsest SMPN can tell apart.
REGIONS = {
    "everything": (8, 8),
    "lips": (1, 2),
    "eyes": (1, 3),
    "eyes to lips": (3, 3),
    "face": (5, 5),
}


def bench_regions(report: Report, options) -> None:
    """Edits of small regions against edits of the whole picture, by one compiled function."""
    size, dtype, name = max(options.sizes), options.dtypes[0], options.networks[0]
    report.table(
        f"Edit by region, {name}, {dtype}, {size} px, batch 1",
        ("masks from", "region such as", "height", "width", "median ms", "times faster"),
    )
    for reduction in (*options.reductions, 0):
        model = make_model(name, size, dtype, max(1, reduction))
        compiled = whole = None
        for region, eighths in REGIONS.items():
            height, width = (size * share // 8 for share in eighths)
            given = [model, picture(1, size, height, width)]
            if reduction:
                found = l2.segment(*given)[..., REGION_NAMES.index("lips")]
                height, width = map(int, bounds(found > 0)[1][0])
            else:
                given.append(_all_masks(size, height, width))
            compiled = compiled or compile_for(edit, *given)
            median = timed(compiled, *given, seconds=options.seconds).median_s
            whole = whole or median
            source = f"{size // reduction} px" if reduction else "caller"
            report.row(source, region, height, width, 1e3 * median, whole / median)


def _all_masks(size: int, height: int, width: int) -> jax.Array:
    """For every region the rectangle that `picture` makes bright."""
    bright = picture(1, size, height, width)[..., :1] > 0
    return jnp.broadcast_to(bright, (1, size, size, 5)).astype(jnp.float32)


def main() -> None:
    on_cpu = jax.default_backend() == "cpu"
    options = arguments(
        __doc__,
        networks=("full", "small"),
        dtypes=("float32",) if on_cpu else ("float32", "bfloat16"),
        sizes=(128, 256, 512),
        batches=(1, 4) if on_cpu else (1, 4, 16),
        reductions=(1, 2, 4),
        seconds=3.0,
    )
    report = Report("Editing", options.json)
    ceiling = {dtype: ceilings(dtype) for dtype in options.dtypes}
    for dtype, found in ceiling.items():
        report.note(f"ceilings, {dtype}, GFLOP/s and GB/s", found)
    bench_parts(report, options, ceiling)
    bench_regions(report, options)
    bench_sizes(report, options, ceiling)
    report.note(f"ceilings at the end, {options.dtypes[0]}", ceilings(options.dtypes[0]))


if __name__ == "__main__":
    main()
