"""Edits are Algorithm 1, and behave as pure functions should: jitted, in batches, one by one."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2sae_jax as l2
from l2sae_jax.matting import blend
from l2sae_jax.model import L2SAE, Autoencoder, AutoencoderConfig
from l2sae_jax.nn import Architecture, DecoderConfig, EncoderConfig
from l2sae_jax.regions import DEFAULT_SLICES, region_indices

ARCHITECTURE = Architecture(EncoderConfig((3, 4), 8, (5,), 6), DecoderConfig(8, 6, (5,), (4,)))
HEIGHT, WIDTH = 16, 20
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, HEIGHT, WIDTH, 3)).astype(np.float32)


def the_key():
    """The key whose noise is known."""
    return jax.random.key(7)


EDITS = {
    "edit": lambda model, images, **options: l2.edit(model, images, the_key(), **options),
    "swap": lambda model, images, **options: l2.swap(model, images, IMAGES[:1], **options),
    "edit_structure": lambda model, images, **options: l2.edit_structure(
        model, images, the_key(), **options
    ),
}
each_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())


def autoencoder(seed: int, brightness: float = 0.0, **config) -> Autoencoder:
    """A network of random parameters; `brightness` is what its decodes vary about."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        scale = 0.1 if path[-1].key == "bias" else 1.0
        return np.float32(scale) * generator.standard_normal(leaf.shape, np.float32)

    parameters = jax.tree_util.tree_map_with_path(draw, ARCHITECTURE.parameter_shapes())
    to_rgb = parameters["decoder"]["to_rgb"]
    to_rgb["kernel"] *= np.float32(10)
    to_rgb["bias"][:] = brightness
    networks = ARCHITECTURE.encoder, ARCHITECTURE.decoder
    return Autoencoder(**parameters, config=AutoencoderConfig(*networks, image_size=16, **config))


@pytest.fixture(scope="module")
def key():
    return the_key()


@pytest.fixture(scope="module")
def model() -> L2SAE:
    """An SMN and an SMPN."""
    return L2SAE(autoencoder(0), autoencoder(1, 0.2, slices=DEFAULT_SLICES, targets="masks"))


@pytest.fixture(scope="module")
def joint() -> L2SAE:
    """One network that was trained on region appearance as well."""
    return L2SAE(autoencoder(2, -0.83, slices=DEFAULT_SLICES, targets="appearance"))


encode, decode = jax.jit(l2.encode), jax.jit(l2.decode)


@jax.jit
def hair_edits(model, images):
    return [edit(model, images, regions=("hair",)) for edit in EDITS.values()]


def masks_of(model, images=IMAGES) -> np.ndarray:
    return np.asarray(l2.segment(model, images))


def neighbours(mask: np.ndarray) -> np.ndarray:
    """The nine values round every pixel of masks `[B, H, W]`, those its matte is made of."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return np.stack([padded[:, i : i + HEIGHT, j : j + WIDTH] for i in range(3) for j in range(3)])


@contextlib.contextmanager
def refused(message: str):
    """Expects a ValueError whose text is this pattern, in one line."""
    with pytest.raises(ValueError) as caught:
        yield
    assert re.fullmatch(message, str(caught.value)), caught.value


def through_masks(model, changed, regions, mode="paper"):
    """Algorithm 2 of an edit whose whole-image result is known."""
    mask = masks_of(model)[..., list(region_indices(regions))].max(axis=-1, keepdims=True)
    return blend(IMAGES, jnp.clip(changed, -1, 1), mask, mode)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-5)


def noise(shape):
    """The noise every sample gets from `the_key()`."""
    return jax.random.normal(the_key(), shape[1:])


# ---------------------------------------------------------------------------------------------
# What the edits are.


def test_these_networks_give_masks_worth_testing_with(model, joint):
    for either in (model, joint):
        masks = masks_of(either)
        assert masks.shape == (3, HEIGHT, WIDTH, 5) and set(np.unique(masks)) == {0.0, 1.0}
        share = masks[..., :2].mean(axis=(0, 1, 2))
        assert (share > 0.05).all() and (share < 0.95).all()


@pytest.mark.parametrize("mode", ["paper", "local"])
def test_edit_is_algorithm_1(model, key, mode):
    structure, style = encode(model, IMAGES)
    restyled = decode(model, structure, style + 0.6 * noise(style.shape))
    edited = l2.edit(model, IMAGES, key, ("hair",), 0.6, mode)
    assert_close(edited, through_masks(model, restyled, ("hair",), mode))


def test_swap_mixes_styles(model):
    structure, style = encode(model, IMAGES)
    other = jnp.roll(style, 1, axis=0)
    swapped = l2.swap(model, IMAGES, np.roll(IMAGES, 1, axis=0), ("hair",), amount=0.3)
    expected = decode(model, structure, 0.7 * style + 0.3 * other)
    assert_close(swapped, through_masks(model, expected, ("hair",)))


def test_structure_edit_disturbs_the_whole_structure_of_a_plain_network(model, key):
    structure, style = encode(model, IMAGES)
    reshaped = decode(model, structure + 0.3 * noise(structure.shape), style)
    moved = l2.edit_structure(model, IMAGES, key, ("hair",), 0.3)
    assert_close(moved, through_masks(model, reshaped, ("hair",)))


def test_structure_edit_disturbs_only_the_slices_of_a_joint_network(joint, key):
    structure, style = encode(joint, IMAGES)
    inside = np.zeros(8, np.float32)
    inside[[0, 1, 7]] = 1.0  # hair and lips
    reshaped = decode(joint, structure + 0.3 * inside * noise(structure.shape), style)
    moved = l2.edit_structure(joint, IMAGES, key, ("hair", "lips"), 0.3)
    assert_close(moved, through_masks(joint, reshaped, ("hair", "lips")))


def test_strength_0_and_amount_0_reconstruct_through_the_matte(model, key):
    expected = through_masks(model, decode(model, *encode(model, IMAGES)), ("hair",))
    assert_close(l2.edit(model, IMAGES, key, ("hair",), 0.0), expected)
    assert_close(l2.edit_structure(model, IMAGES, key, ("hair",), 0.0), expected)
    assert_close(l2.swap(model, IMAGES, IMAGES[:1], ("hair",), 0.0), expected)


def test_regions_are_joined_by_maximum(model, key):
    hair, skin = (
        np.asarray(l2.edit(model, IMAGES, key, (name,), 0.6, "local")) for name in ("hair", "skin")
    )
    both = np.asarray(l2.edit(model, IMAGES, key, ("hair", "skin"), 0.6, "local"))
    # Within a mask's interior the matte is 1, whichever of the regions it belongs to.
    for single, mask in ((hair, masks_of(model)[..., 0]), (skin, masks_of(model)[..., 1])):
        interior = neighbours(mask).min(axis=0) == 1
        assert interior.any()
        assert_close(both[interior], single[interior])


def test_local_leaves_pixels_outside_the_matte_bit_for_bit(model, key):
    outside = neighbours(masks_of(model)[..., 0]).max(axis=0) == 0
    edited = np.asarray(l2.edit(model, IMAGES, key, ("hair",), blend="local"))
    assert outside.any()
    np.testing.assert_array_equal(edited[outside], IMAGES[outside])
    assert (edited[~outside] != IMAGES[~outside]).mean() > 0.9


# ---------------------------------------------------------------------------------------------
# How they may be called.


def test_within_jit_as_without(model):
    for jitted, edit in zip(hair_edits(model, IMAGES), EDITS.values(), strict=True):
        assert_close(jitted, edit(model, IMAGES, regions=("hair",)))


def test_jitted_with_static_regions_and_blend(model, key):
    jitted = jax.jit(l2.edit, static_argnames=("regions", "blend"))
    found = jitted(model, IMAGES, key, regions=("hair",), strength=0.4, blend="local")
    assert_close(found, l2.edit(model, IMAGES, key, ("hair",), 0.4, "local"))


def test_a_batch_as_one_by_one(model):
    together = hair_edits(model, IMAGES)
    for i in range(len(IMAGES)):
        for alone, all_three in zip(hair_edits(model, IMAGES[i : i + 1]), together, strict=True):
            assert_close(alone, all_three[i : i + 1])


def test_segmentation_of_a_batch_as_one_by_one(model):
    alone = [masks_of(model, IMAGES[i : i + 1])[0] for i in range(len(IMAGES))]
    np.testing.assert_array_equal(masks_of(model), np.stack(alone))


def test_one_key_a_sample_is_that_samples_key(model, key):
    keys = jax.random.split(key, 3)
    together = l2.edit(model, IMAGES, keys)
    for i in range(3):
        assert_close(l2.edit(model, IMAGES[i : i + 1], keys[i]), together[i : i + 1])


def test_keys_may_be_typed_or_raw(model):
    typed, raw = jax.random.key(3), jax.random.PRNGKey(3)
    np.testing.assert_array_equal(l2.edit(model, IMAGES, raw), l2.edit(model, IMAGES, typed))
    np.testing.assert_array_equal(
        l2.edit(model, IMAGES, jax.random.split(raw, 3)),
        l2.edit(model, IMAGES, jax.random.split(typed, 3)),
    )


def test_other_keys_and_strengths_give_other_edits(model):
    edits = [
        l2.edit(model, IMAGES, jax.random.key(seed), strength=strength)
        for seed, strength in ((0, 0.6), (1, 0.6), (0, 0.3))
    ]
    for i in range(3):
        assert np.abs(edits[i] - edits[i - 1]).max() > 0.01


def test_regions_may_be_a_list_or_a_tuple(model, key):
    np.testing.assert_array_equal(
        l2.edit(model, IMAGES, key, ["hair"]), l2.edit(model, IMAGES, key, ("hair",))
    )


def test_swap_takes_one_reference_or_one_each(model):
    one = l2.swap(model, IMAGES, IMAGES[:1], ("hair",))
    each = l2.swap(model, IMAGES, np.repeat(IMAGES[:1], 3, axis=0), ("hair",))
    assert_close(one, each)


def test_gradients_reach_pixels_strength_and_parameters(model, key):
    def loss(differentiated, images, strength):
        return jnp.sum(jnp.square(l2.edit(differentiated, images, key, ("hair",), strength)))

    of_model, of_images, of_strength = jax.grad(loss, argnums=(0, 1, 2))(model, IMAGES, 0.6)
    for gradient in (*jax.tree.leaves(of_model.smn), of_images, of_strength):
        assert np.isfinite(gradient).all()
    for gradient in (of_model.smn.decoder["to_rgb"]["bias"], of_images, of_strength):
        assert np.abs(gradient).max() > 0
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(of_model.smpn))  # hard masks


def test_vmap_over_keys(model, key):
    keys = jax.random.split(key, 2)
    mapped = jax.vmap(lambda one: l2.edit(model, IMAGES, one, ("hair",)))(keys)
    for one, edited in zip(keys, mapped, strict=True):
        assert_close(edited, l2.edit(model, IMAGES, one, ("hair",)))


# ---------------------------------------------------------------------------------------------
# What they refuse, in one line.


@each_edit
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": ("hare",)}, "unknown region 'hare': choose from hair, skin, nose, eyes, lips"),
        (
            {"regions": "hair"},
            r"regions must be a tuple of names such as \('hair',\), not a string",
        ),
        ({"regions": ()}, "no region named: choose from hair, skin, nose, eyes, lips"),
        ({"regions": ("hair", "hair")}, "a region is named twice in hair, hair"),
        ({"blend": "soft"}, "unknown blend 'soft': choose from paper, local"),
    ],
)
def test_wrong_options_are_named(model, edit, options, message):
    with refused(message):
        edit(model, IMAGES, **options)


@pytest.mark.parametrize("edit", [*EDITS.values(), l2.segment], ids=[*EDITS, "segment"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((1, 16, 16, 3), np.uint8),
            "images of dtype uint8: expected floats in .* x / 127.5",
        ),
        (np.zeros((1, 17, 16, 3), np.float32), "image height 17: .* multiples of 2 from 6 up"),
        (np.zeros((1, 16, 4, 3), np.float32), "image width 4: .* multiples of 2 from 6 up"),
        (
            np.zeros((16, 16, 3), np.float32),
            "images of shape .*: expected .batch, height, width, 3.",
        ),
        (np.zeros((1, 16, 16, 4), np.float32), "images of shape .*: expected"),
    ],
    ids=["uint8", "height", "width", "no batch", "channels"],
)
def test_images_it_cannot_read_are_refused(model, edit, images, message):
    with refused(message + ".*"):
        edit(model, images)


def test_numbers_that_do_not_match_are_refused(model, key):
    with refused("2 style images for 3 images: give one, or one for each"):
        l2.swap(model, IMAGES, IMAGES[:2])
    with refused(r"keys of shape \(2,\): give one key, or one for each of 3"):
        l2.edit(model, IMAGES, jax.random.split(key, 2))


@each_edit
def test_without_an_smpn_whole_images_work_and_regions_do_not(model, edit):
    alone = L2SAE(model.smn)
    structure, style = jax.eval_shape(l2.encode, alone, IMAGES)
    assert jax.eval_shape(l2.decode, alone, structure, style).shape == IMAGES.shape
    for function in (edit, l2.segment):
        with refused("this model has no SMPN, so it cannot predict region masks: .*"):
            function(alone, IMAGES)


@each_edit
def test_without_an_smn_only_segmentation_works(model, edit):
    alone = L2SAE(None, model.smpn)
    assert jax.eval_shape(l2.segment, alone, IMAGES).shape == masks_of(model).shape
    with refused("this model has no SMN, so it can segment but not restyle images"):
        edit(alone, IMAGES)
