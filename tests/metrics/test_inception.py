"""Held against pytorch-fid 0.3.0, whose figures are in `fixtures/inception.npz`.

There are its checkpoint's "entries" with their shapes, "features" of `pictures(2, 64, 64)` for the
weights of `weight`, and every 23rd pixel of noise that PyTorch "resized".
"""

import http.server
import json
import threading
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from l2sae_jax import torch_format
from l2sae_jax.metrics import inception
from l2sae_jax.metrics.distances import Moments, frechet_distance
from l2sae_jax.metrics.inception import Inception, find_inception, read_inception, resized

with np.load(Path(__file__).parents[1] / "fixtures" / "inception.npz") as file:
    FIGURES = dict(file)
ENTRIES = json.loads(FIGURES["entries"].tobytes())


def weight(name, shape):
    """Random values that keep activations, and their differences between pictures, of one scale."""
    if not shape:
        return np.array(1)  # num_batches_tracked
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith("conv.weight"):
        values -= values.mean(axis=(1, 2, 3), keepdims=True)
        return values * np.float32(1.5 / np.sqrt(np.prod(shape[1:])))
    if name.endswith(("bn.weight", "running_var")):
        return np.exp(np.float32(0.2) * values)
    return np.float32(0.3) * values


def pictures(count, height, width):
    """Cells of 8 x 8 pixels."""
    size = (count, height // 8, width // 8, 3)
    cells = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    return cells.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch_format.write(path, {name: weight(name, shape) for name, shape in ENTRIES.items()})
    yield path
    path.unlink()  # 96 MB


def test_features_are_those_of_pytorch_fid(checkpoint):
    parameters = read_inception(checkpoint)
    found = jax.jit(Inception().apply)({"params": parameters}, pictures(2, 64, 64))
    want = FIGURES["features"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, atol=1e-4 * want.std(), rtol=0)


@pytest.mark.parametrize("size", [(48, 80), (600, 400)])
def test_pictures_of_any_size_are_resized_like_pytorchs(size):
    noise = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    want = FIGURES["resized_{}x{}".format(*size)]
    np.testing.assert_allclose(resized(noise)[:, ::23, ::23], want, atol=1e-6)


def test_pictures_of_the_networks_size_stay_as_they_are():
    picture = np.zeros((1, 299, 299, 3), np.float32)
    assert resized(picture) is picture


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Conv2d_1a_3x3.bn.bias", None, "'Conv2d_1a_3x3.bn.bias' is missing, want one of shape"),
        ("Conv2d_1a_3x3.conv.weight", np.zeros((32, 3, 5, 5)), r"\(32, 3, 5, 5\), want \(32, 3, 3"),
        ("Conv2d_1a_3x3.bn.weight", np.full(32, np.nan), "'Conv2d_1a_3x3.bn.weight' has values"),
        ("Conv2d_1a_3x3.bn.running_var", np.full(32, -1.0), "has values below 0"),
        ("fc.weight", np.zeros((1000, 2048), np.float16), r"'fc.weight' has shape \(1000, 2048\)"),
    ],
)
def test_another_networks_file_is_told_in_one_line(tmp_path, name, value, message):
    entries = {n: weight(n, s) for n, s in ENTRIES.items() if n.startswith("Conv2d_1a")}
    entries[name] = value
    path = tmp_path / "other.pth"
    torch_format.write(path, {n: v for n, v in entries.items() if v is not None})
    with pytest.raises(ValueError, match=message) as refusal:
        read_inception(path)
    assert str(refusal.value).startswith(f"{path}: entry ")
    assert "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------- the weights


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small file in the place of the published one, and an empty cache."""
    content = b"weights"
    source = tmp_path / "published.pth"
    source.write_bytes(content)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(inception, "URL", source.as_uri())
    monkeypatch.setattr(inception, "SHA256", inception._sha256(source))
    return source


def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.*"))


def test_weights_are_fetched_once(published, tmp_path):
    found = find_inception(fetch=True)
    assert cached(tmp_path) == [found]
    assert found == tmp_path / "cache" / "l2sae_jax" / "pt_inception-2015-12-05-6726825d.pth"
    assert found.read_bytes() == published.read_bytes()
    published.unlink()
    assert find_inception() == find_inception(fetch=True) == found


def test_weights_that_are_nowhere(published, tmp_path):
    with pytest.raises(ValueError) as refusal:
        find_inception()
    for part in (str(tmp_path / "cache" / "l2sae_jax"), inception.URL, inception.SHA256):
        assert part in str(refusal.value)
    with pytest.raises(ValueError, match=r"mine\.pth: no such file; want the weights pt_inception"):
        find_inception(tmp_path / "mine.pth", fetch=True)
    assert cached(tmp_path) == []


def test_a_file_of_ones_own_may_be_any(published):
    published.write_bytes(b"others")
    assert find_inception(str(published)) == published


def test_a_cached_file_that_is_another(published, tmp_path):
    found = find_inception(fetch=True)
    found.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"damaged, or another file; put file://"):
        find_inception(fetch=True)
    assert found.read_bytes() == b"half"


def test_a_download_of_something_else_leaves_nothing(published, tmp_path):
    published.write_bytes(b"please log in")
    with pytest.raises(ValueError, match=r"the 13 bytes that came are not the file"):
        find_inception(fetch=True)
    assert cached(tmp_path) == []


class _Breaking(http.server.BaseHTTPRequestHandler):
    """Promises 100 bytes and sends 4."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, *_):
        pass


def test_a_connection_that_breaks_or_is_none_leaves_nothing(published, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), _Breaking) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/a.pth")
        with pytest.raises(ValueError, match=r"cannot fetch http.*IncompleteRead.*put it at "):
            find_inception(fetch=True)
    with pytest.raises(ValueError, match=r"cannot fetch http.*refused.*put it at ") as refusal:
        find_inception(fetch=True)
    assert "\n" not in str(refusal.value)
    assert cached(tmp_path) == []


# ----------------------------------------------------------------------------- against pytorch-fid


@pytest.fixture(scope="module")
def pytorch_fid(checkpoint):
    """Features of pictures by pytorch-fid, with the weights of the checkpoint."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_fid")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # Built for another PyTorch: its own operators are missing, which Inception does not use.
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from pytorch_fid import inception as theirs

    with pytest.MonkeyPatch.context() as patch:
        published = torch.load(checkpoint, weights_only=True)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: published)
        network = theirs.InceptionV3().eval()

    def features(images):
        with torch.inference_mode():
            found = network(torch.from_numpy((images + 1) / 2).permute(0, 3, 1, 2))
        return found[0][:, :, 0, 0].numpy()

    return features


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (299, 299), (512, 320)])
def test_pytorch_fid_finds_the_same_features(checkpoint, pytorch_fid, size):
    images = pictures(2, 304, 304)[:, :299, :299] if size == (299, 299) else pictures(2, *size)
    want = pytorch_fid(images)
    found = jax.jit(Inception().apply)({"params": read_inception(checkpoint)}, images)
    np.testing.assert_allclose(found, want, atol=1e-4 * want.std(), rtol=0)
    if size == (64, 64):
        np.testing.assert_allclose(want, FIGURES["features"], atol=1e-4 * want.std(), rtol=0)


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_fid_finds_the_same_distance(checkpoint, pytorch_fid):
    images = pictures(24, 64, 64)
    sets = images[:12], 0.7 * images[12:] + 0.2
    parameters = read_inception(checkpoint)
    ours = [jax.jit(Inception().apply)({"params": parameters}, part) for part in sets]
    found = frechet_distance(*(Moments.of(np.asarray(part)) for part in ours))
    from pytorch_fid.fid_score import calculate_frechet_distance

    theirs = [pytorch_fid(part).astype(np.float64) for part in sets]
    moments = [(part.mean(axis=0), np.cov(part, rowvar=False)) for part in theirs]
    want = calculate_frechet_distance(*moments[0], *moments[1])
    assert found == pytest.approx(want, rel=1e-3)
