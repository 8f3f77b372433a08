"""The public functions compose: with jit, vmap and grad, with each other, and with sharding."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import IMAGES, every_edit, every_operation, separate_networks
from training_runs import environment

import l2sae_jax as l2

ABSTRACT = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)


@pytest.fixture(scope="module")
def model():
    return separate_networks()


@pytest.fixture(scope="module")
def key():
    return jax.random.key(7)


@pytest.fixture(scope="module")
def codes(model):
    return jax.jit(l2.encode)(model, IMAGES)


def assert_close(found, expected):
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), found, expected)


def slope(function, x, direction, step):
    """How fast a function grows from `x` in a direction, by a finite difference."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


# ---------------------------------------------------------------------------------------------
# Jit.


def test_jitted_as_eager(model):
    jitted = jax.jit(every_operation)(model, IMAGES)
    eager = every_edit(model, IMAGES) | {"segment": l2.segment(model, IMAGES)}
    assert_close({name: jitted[name] for name in eager}, eager)


def test_regions_and_blend_are_static(model, key):
    jitted = jax.jit(l2.edit, static_argnames=("regions", "blend"))
    found = jitted(model, IMAGES, key, regions=("hair",), strength=0.4, blend="local")
    assert_close(found, l2.edit(model, IMAGES, key, ("hair",), 0.4, "local"))


def test_shapes_are_known_before_anything_is_computed(model):
    shapes = jax.eval_shape(every_operation, model, ABSTRACT)
    assert {name: out.shape for name, out in shapes.items() if name != "encode"} == {
        name: (3, 16, 20, 5 if name == "segment" else 3) for name in shapes if name != "encode"
    }
    assert [code.shape for code in shapes["encode"]] == [(3, 8, 10, 8), (3, 6)]


# ---------------------------------------------------------------------------------------------
# Vmap.


def test_vmap_over_strengths_and_amounts(model):
    edits = jax.jit(partial(every_edit, model, IMAGES))
    figures = jnp.asarray([[0.2, 0.7], [0.9, 0.1]])
    mapped = jax.jit(jax.vmap(edits))(figures)
    assert_close(jax.tree.map(lambda x: x[1], mapped), edits(figures[1]))


def test_vmap_over_keys(model, key):
    keys = jax.random.split(key, 2)
    mapped = jax.vmap(lambda one: l2.edit(model, IMAGES, one, ("hair",)))(keys)
    for one, edited in zip(keys, mapped, strict=True):
        assert_close(edited, l2.edit(model, IMAGES, one, ("hair",)))


def test_vmap_over_models(model, key):
    other = jax.tree.map(lambda x: x + 0.1, model)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), model, other)
    mapped = jax.vmap(lambda one: l2.edit(one, IMAGES, key))(both)
    for one, edited in zip((model, other), mapped, strict=True):
        assert_close(edited, l2.edit(one, IMAGES, key))


# ---------------------------------------------------------------------------------------------
# Grad.


@pytest.mark.parametrize("which", [0, 1], ids=["structure", "style"])
def test_gradients_through_decode_agree_with_finite_differences(model, codes, which):
    @jax.jit
    def brightness(code):
        both = (*codes[:which], code, *codes[which + 1 :])
        return jnp.mean(jnp.square(l2.decode(model, *both)))

    code = codes[which]
    gradient = jax.grad(brightness)(code)
    assert np.isfinite(gradient).all()
    direction = gradient / jnp.linalg.norm(gradient)
    found = slope(brightness, code, direction, 1e-2)
    np.testing.assert_allclose(found, jnp.linalg.norm(gradient), rtol=0.02)


@pytest.mark.slow
def test_gradients_through_edit_agree_with_finite_differences(model, key):
    @jax.jit
    def brightness(strength):
        edited = l2.edit(model, IMAGES, key, ("hair", "skin"), strength, "local")
        return jnp.mean(jnp.square(edited))

    strength = jnp.asarray([0.5, 0.2])
    found = [slope(brightness, strength, direction, 1e-2) for direction in jnp.eye(2)]
    gradient = jax.grad(brightness)(strength)
    assert jnp.linalg.norm(jnp.asarray(found) - gradient) < 0.03 * jnp.linalg.norm(gradient)


def test_gradients_reach_pixels_strength_and_parameters(model, key):
    def loss(differentiated, images, strength):
        return jnp.sum(jnp.square(l2.edit(differentiated, images, key, ("hair",), strength)))

    of_model, of_images, of_strength = jax.grad(loss, argnums=(0, 1, 2))(model, IMAGES, 0.6)
    for gradient in (*jax.tree.leaves(of_model.smn), of_images, of_strength):
        assert np.isfinite(gradient).all()
    for gradient in (of_model.smn.decoder["to_rgb"]["bias"], of_images, of_strength):
        assert np.abs(gradient).max() > 0
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(of_model.smpn))  # hard masks


# ---------------------------------------------------------------------------------------------
# A batch on several devices.


def test_eight_devices_share_a_batch_and_give_the_pixels_of_one():
    script = Path(__file__).parent / "edits_on_eight_devices.py"
    eight = environment(XLA_FLAGS="--xla_force_host_platform_device_count=8")
    done = subprocess.run([sys.executable, script], env=eight, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 2 * 3
    for case, (difference, rows_per_device) in found.items():
        assert difference < 2e-5 and rows_per_device == [1] * 8, case
