"""The Inception network whose features FID and KID compare, and where its weights are.

The network is that of the original TensorFlow release of FID, as ported by pytorch-fid: average
pools leave out the padding, and the last block has a max pool where others have an average.
Convolutions bear the names of pytorch-fid's, whose files `read_inception` reads. Their batch
normalisation is folded into kernel and bias there, so the network is convolutions and pools alone.

Sources: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision"; Heusel et
al. 2017, "GANs Trained by a Two Time-Scale Update Rule".
"""

import functools
import hashlib
import http.client
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from l2sae_jax import torch_format
from l2sae_jax.compilation_cache import cache_folder
from l2sae_jax.nn.convolution import convolve
from l2sae_jax.whole_files import replacing

IMAGE_SIZE = 299

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_TIMEOUT_SECONDS = 60
_EPSILON = 1e-3  # of the batch normalisation


# ------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class _Conv:
    """A row of the table below: a convolution and the ReLU that follows it."""

    name: str
    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    pad: bool = True

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        height, width = (size // 2 if self.pad else 0 for size in self.size)
        return (height, height), (width, width)


_average = functools.partial(
    nn.avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME", count_include_pad=False
)
_largest = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME")
_halve = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


def _double_3x3(name, stride=1, pad=True):
    return (
        _Conv(f"{name}.branch3x3dbl_1", 64),
        _Conv(f"{name}.branch3x3dbl_2", 96, (3, 3)),
        _Conv(f"{name}.branch3x3dbl_3", 96, (3, 3), stride, pad),
    )


def _block_a(name, pooled):
    return [
        _Conv(f"{name}.branch1x1", 64),
        (_Conv(f"{name}.branch5x5_1", 48), _Conv(f"{name}.branch5x5_2", 64, (5, 5))),
        _double_3x3(name),
        (_average, _Conv(f"{name}.branch_pool", pooled)),
    ]


def _block_b(name):
    return [
        _Conv(f"{name}.branch3x3", 384, (3, 3), 2, pad=False),
        _double_3x3(name, 2, pad=False),
        _halve,
    ]


def _block_c(name, width):
    return [
        _Conv(f"{name}.branch1x1", 192),
        (
            _Conv(f"{name}.branch7x7_1", width),
            _Conv(f"{name}.branch7x7_2", width, (1, 7)),
            _Conv(f"{name}.branch7x7_3", 192, (7, 1)),
        ),
        (
            _Conv(f"{name}.branch7x7dbl_1", width),
            _Conv(f"{name}.branch7x7dbl_2", width, (7, 1)),
            _Conv(f"{name}.branch7x7dbl_3", width, (1, 7)),
            _Conv(f"{name}.branch7x7dbl_4", width, (7, 1)),
            _Conv(f"{name}.branch7x7dbl_5", 192, (1, 7)),
        ),
        (_average, _Conv(f"{name}.branch_pool", 192)),
    ]


def _block_d(name):
    return [
        (
            _Conv(f"{name}.branch3x3_1", 192),
            _Conv(f"{name}.branch3x3_2", 320, (3, 3), 2, pad=False),
        ),
        (
            _Conv(f"{name}.branch7x7x3_1", 192),
            _Conv(f"{name}.branch7x7x3_2", 192, (1, 7)),
            _Conv(f"{name}.branch7x7x3_3", 192, (7, 1)),
            _Conv(f"{name}.branch7x7x3_4", 192, (3, 3), 2, pad=False),
        ),
        _halve,
    ]


def _block_e(name, pool):
    return [
        _Conv(f"{name}.branch1x1", 320),
        (
            _Conv(f"{name}.branch3x3_1", 384),
            [
                _Conv(f"{name}.branch3x3_2a", 384, (1, 3)),
                _Conv(f"{name}.branch3x3_2b", 384, (3, 1)),
            ],
        ),
        (
            _Conv(f"{name}.branch3x3dbl_1", 448),
            _Conv(f"{name}.branch3x3dbl_2", 384, (3, 3)),
            [
                _Conv(f"{name}.branch3x3dbl_3a", 384, (1, 3)),
                _Conv(f"{name}.branch3x3dbl_3b", 384, (3, 1)),
            ],
        ),
        (pool, _Conv(f"{name}.branch_pool", 192)),
    ]


# What a tuple holds is done one after the other; what a list holds is done side by side, and the
# results' channels are joined.
_NETWORK = (
    _Conv("Conv2d_1a_3x3", 32, (3, 3), 2, pad=False),
    _Conv("Conv2d_2a_3x3", 32, (3, 3), pad=False),
    _Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _halve,
    _Conv("Conv2d_3b_1x1", 80),
    _Conv("Conv2d_4a_3x3", 192, (3, 3), pad=False),
    _halve,
    _block_a("Mixed_5b", 32),
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", _average),
    _block_e("Mixed_7c", _largest),
)


class Inception(nn.Module):
    """Images to the 2048 features that FID and KID are made of, in float32 on every device."""

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B 2048"]:
        """Features of images in [-1, 1], of any size."""
        # Graphics cards and TPUs round float32 products to fewer bits unless told not to.
        with jax.default_matmul_precision("float32"):
            x = self._apply(_NETWORK, resized(images.astype(jnp.float32)))
        return jnp.mean(x, axis=(1, 2))

    def _apply(self, step, x):
        if isinstance(step, tuple):
            for each in step:
                x = self._apply(each, x)
            return x
        if isinstance(step, list):
            return jnp.concatenate([self._apply(each, x) for each in step], axis=-1)
        if isinstance(step, _Conv):
            return self._convolve(step, x)
        return step(x)

    def _convolve(self, conv, x):
        shape = (*conv.size, x.shape[-1], conv.features)
        kernel = self.param(f"{conv.name}.kernel", nn.initializers.he_normal(), shape)
        bias = self.param(f"{conv.name}.bias", nn.initializers.zeros, (conv.features,))
        return nn.relu(convolve(x, kernel, conv.stride, conv.padding) + bias)


def resized(images: Float[Array, "B H W C"]) -> Float[Array, "B 299 299 C"]:
    """Bilinear at half-pixel centres, without antialiasing, as pytorch-fid does."""
    if images.shape[1:3] == (IMAGE_SIZE, IMAGE_SIZE):
        return images
    shape = (images.shape[0], IMAGE_SIZE, IMAGE_SIZE, images.shape[3])
    return jax.image.resize(images, shape, "bilinear", antialias=False)


# ------------------------------------------------------------------------------------- its weights


def find_inception(path: str | os.PathLike | None = None, fetch: bool = False) -> Path:
    """Where the published weights are.

    Args:
      path: a file of them; None for the one kept in this user's `cache_folder()`.
      fetch: download them to the cache folder (96 MB) if they are not there.

    Raises:
      ValueError: no such file, a file in the cache that is not the published one, or a download
        that failed; in one line that says what to get and where to put it.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; want the weights {FILE} of pytorch-fid")
        return Path(path)
    file = cache_folder() / FILE
    if not file.is_file():
        if not fetch:
            raise ValueError(f"{file}: no such file; get {URL} (sha256 {SHA256}) and put it there")
        _fetch(file)
    elif _sha256(file) != SHA256:
        raise ValueError(f"{file}: damaged, or another file; put {URL} (sha256 {SHA256}) there")
    return file


def _fetch(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            with urllib.request.urlopen(URL, timeout=_TIMEOUT_SECONDS) as answer:
                partial.write_bytes(answer.read())
            if _sha256(partial) != SHA256:
                size = partial.stat().st_size
                raise OSError(f"the {size} bytes that came are not the file, or not all of it")
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"cannot fetch {URL}: {error}; get it otherwise (sha256 {SHA256}) and put it at {file}"
        ) from error


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_inception(path: str | os.PathLike) -> dict[str, Float[Array, "..."]]:
    """The parameters in pytorch-fid's file, for `Inception().apply({"params": ...}, images)`.

    Args:
      path: a state dict saved by PyTorch, with the entries of pytorch-fid's network; those of the
        classifier, which is not part of ours, may be left out.

    Raises:
      ValueError: not such a file; the line names the first entry that is wrong.
      OSError: the file cannot be opened.
    """
    entries = torch_format.read(path)
    parameters = {}
    try:
        # Torchvision's network differs from FID's by its values, and by a classifier of 1000.
        if "fc.weight" in entries:
            _entry(entries, "fc.weight", (1008, 2048))
        for name, shape in _kernel_shapes().items():
            kernel, bias = _folded(entries, name, shape)
            parameters |= {f"{name}.kernel": kernel, f"{name}.bias": bias}
    except ValueError as error:
        raise ValueError(f"{path}: {error}, as pytorch-fid's Inception has it") from error
    return parameters


@functools.cache
def _kernel_shapes() -> Mapping[str, tuple[int, int, int, int]]:
    """The shape of each convolution's kernel."""
    image = jax.ShapeDtypeStruct((1, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.float32)
    parameters = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    return {
        name.removesuffix(".kernel"): parameter.shape
        for name, parameter in parameters.items()
        if name.endswith(".kernel")
    }


def _folded(
    entries: Mapping[str, np.ndarray], name: str, shape: tuple[int, int, int, int]
) -> tuple[Float[Array, "h w C D"], Float[Array, " D"]]:
    """Kernel and bias of a convolution that does its batch normalisation's work too."""
    height, width, channels, features = shape
    weight = _entry(entries, f"{name}.conv.weight", (features, channels, height, width))
    scale, shift, mean, variance = (
        _entry(entries, f"{name}.bn.{part}", (features,))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if (variance < 0).any():
        raise ValueError(f"entry '{name}.bn.running_var' has values below 0, want none")
    scale = scale / np.sqrt(variance + _EPSILON)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return jnp.asarray(kernel, jnp.float32), jnp.asarray(shift - mean * scale, jnp.float32)


def _entry(
    entries: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """An entry in float64."""
    if name not in entries:
        raise ValueError(f"entry '{name}' is missing, want one of shape {shape}")
    entry = entries[name]
    if entry.shape != shape:
        raise ValueError(f"entry '{name}' has shape {entry.shape}, want {shape}")
    if not np.isfinite(entry).all():
        raise ValueError(f"entry '{name}' has values that are not finite, want none")
    return entry.astype(np.float64)
