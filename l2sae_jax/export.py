"""Edits as files that other programs run: StableHLO for any batch, with the weights inside.

Such a file needs none of this package. Where there are JAX and flatbuffers, three lines run it:

    data = pathlib.Path("hair.exported").read_bytes()
    edit = jax.jit(jax.export.deserialize(bytearray(data)).call)
    edited = edit(pixels, keys, strength)  # uint8 [b, H, W, 3], uint32 [b, 2], float32 []

`hair.exported.json` says what goes in and what comes out. A runtime without JAX takes the module
itself, `mlir_module_serialized` of what is deserialized; exported for one platform alone, it has
no further argument that says which it runs on.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export, lax

import l2sae_jax
from l2sae_jax import editing
from l2sae_jax.matting import Blend
from l2sae_jax.model import L2SAE, check_model
from l2sae_jax.pixels import to_images, to_pixels
from l2sae_jax.regions import region_indices
from l2sae_jax.whole_files import replacing

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

_MEANINGS = {
    "pixels": "crops of faces, RGB",
    "style_pixels": "for each of them, another face whose style it takes",
    "keys": "what the noise of each is drawn from; [0, n] is jax.random.key(n)",
    "strength": "standard deviation of the noise",
    "amount": "from 0, its own style, to 1, the other's",
    "edited": "the crops after the edit",
}


class _Mode(NamedTuple):
    """What can be exported.

    Attributes:
      apply: `(model, how, *inputs)` to the output; `how` goes to the edit by name.
      inputs: their names.
    """

    apply: Callable[..., jax.Array]
    inputs: tuple[str, ...]


def _style(model, how, pixels, keys, strength):
    images, keys = to_images(pixels), _typed(keys)
    return to_pixels(editing.edit(model, images, keys, strength=strength, **how))


def _structure(model, how, pixels, keys, strength):
    images, keys = to_images(pixels), _typed(keys)
    return to_pixels(editing.edit_structure(model, images, keys, strength=strength, **how))


def _swap(model, how, pixels, style_pixels, amount):
    images, style_images = to_images(pixels), to_images(style_pixels)
    return to_pixels(editing.swap(model, images, style_images, amount=amount, **how))


def _typed(keys):
    return jax.random.wrap_key_data(keys, impl="threefry2x32")


_MODES = {
    "style": _Mode(_style, ("pixels", "keys", "strength")),
    "structure": _Mode(_structure, ("pixels", "keys", "strength")),
    "swap": _Mode(_swap, ("pixels", "style_pixels", "amount")),
}


def export_edit(
    model: L2SAE,
    mode: str = "style",
    regions: Sequence[str] = ("hair",),
    blend: Blend = "paper",
    *,
    harmonise: bool = False,
    by_region: bool = False,
    size: tuple[int, int] | None = None,
    platforms: Sequence[str] = ("cpu", "cuda"),
) -> export.Exported:
    """An edit of any number of pictures, as a value that can be serialized.

    It has the pixels of `edit`, `edit_structure` or `swap`. Inputs, by position, and output:
      pixels: uint8 `[b, H, W, 3]`, crops of faces.
      keys: uint32 `[b, 2]`, what the noise of each is drawn from; [0, n] is `jax.random.key(n)`.
      strength: float32 `[]`, or `[N]` for N regions.
      style_pixels, amount: take the place of keys and strength in the mode "swap"; as many
        pictures as `pixels`, and as many figures as strength.
      edited: uint8 `[b, H, W, 3]`.

    Args:
      model: as for `edit`; its parameters become constants.
      mode: "style", "structure" or "swap".
      regions, blend, harmonise: as for `edit`.
      by_region: whether strength or amount is one figure a region, at the cost of a decode each.
      size: height and width of the pictures; None for those of its training.
      platforms: where it is to run: of `PLATFORMS`.

    Raises:
      ValueError: an unknown mode or platform, or what the edit itself would raise.
    """
    check_model(model)
    _check_known("mode", mode, _MODES)
    for platform in platforms:
        _check_known("platform", platform, PLATFORMS)
    count = len(region_indices(regions))
    if size is None:
        size = model.image_size, model.image_size
    elif np.shape(size) != (2,):
        raise ValueError(f"size {size}: expected (height, width)")
    pictures = "b, {}, {}, 3".format(*size)
    degree = str(count) if by_region else ""
    specs = {
        "pixels": (pictures, np.uint8),
        "style_pixels": (pictures, np.uint8),
        "keys": ("b, 2", np.uint32),
        "strength": (degree, np.float32),
        "amount": (degree, np.float32),
    }
    apply, names = _MODES[mode]
    scope = export.SymbolicScope()
    inputs = [
        jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), dtype)
        for shape, dtype in map(specs.get, names)
    ]
    weights = jax.device_get(model)
    how = {"regions": tuple(regions), "blend": blend, "harmonise": harmonise}

    def edit(*inputs):
        # Behind a barrier, or compilers calculate with the weights for as long as a minute.
        return apply(lax.optimization_barrier(weights), how, *inputs)

    return export.export(jax.jit(edit), platforms=platforms)(*inputs)


def write_exported(
    path: str | os.PathLike,
    model: L2SAE,
    mode: str = "style",
    regions: Sequence[str] = ("hair",),
    blend: Blend = "paper",
    harmonise: bool = False,
    **options: Any,
) -> None:
    """Writes an edit for other programs and, in PATH.json beside it, what it is.

    Each file appears whole or not at all; the second holds the first one's SHA-256.

    Args:
      path: of the file, by any name.
      model, mode, regions, blend, harmonise, options: as for `export_edit`.

    Raises:
      ValueError: as for `export_edit`, or a file that cannot be written.
    """
    path = Path(path)
    exported = export_edit(model, mode, regions, blend, harmonise=harmonise, **options)
    data = bytes(exported.serialize())
    side, raised = model.framing
    inputs = zip(_MODES[mode].inputs, exported.in_avals, strict=True)
    about = {
        "made_by": f"l2sae_jax {l2sae_jax.__version__}, JAX {jax.__version__}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "platforms": exported.platforms,
        "mode": mode,
        "regions": regions,
        "blend": blend,
        "harmonise": harmonise,
        "framing": {"side": side, "raised": raised},
        "inputs": [_described(name, array) for name, array in inputs],
        "output": _described("edited", *exported.out_avals),
    }
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
        with replacing(path.with_name(f"{path.name}.json")) as partial:
            partial.write_text(f"{json.dumps(about, indent=2)}\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"no export for {what} {name!r}: choose from {', '.join(known)}")


def _described(name: str, array: jax.core.ShapedArray) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"name": name, "dtype": str(array.dtype), "shape": shape, "meaning": _MEANINGS[name]}
