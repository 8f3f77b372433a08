"""Edits are Algorithm 1, and behave as pure functions should: jitted, in batches, one by one."""

import contextlib
import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import HEIGHT, IMAGES, WIDTH, joint_network, separate_networks

import l2sae_jax as l2
from l2sae_jax.data.alignment import central_square, take
from l2sae_jax.data.images import find_images, read_image
from l2sae_jax.matting import blend
from l2sae_jax.model import L2SAE
from l2sae_jax.regions import region_indices


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


@pytest.fixture(scope="module")
def key():
    return the_key()


@pytest.fixture(scope="module")
def model() -> L2SAE:
    return separate_networks()


@pytest.fixture(scope="module")
def joint() -> L2SAE:
    return joint_network()


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


@each_edit
@pytest.mark.parametrize("which", ["model", "joint"])
def test_equal_figures_for_every_region_are_as_one_for_all(which, edit, request):
    chosen = request.getfixturevalue(which)
    name = "amount" if edit is EDITS["swap"] else "strength"
    regions = ("skin", "hair")
    one = edit(chosen, IMAGES, regions=regions, **{name: 0.4})
    assert_close(edit(chosen, IMAGES, regions=regions, **{name: (0.4, 0.4)}), one)


@each_edit
def test_every_region_has_its_own_figure(model, edit):
    name = "amount" if edit is EDITS["swap"] else "strength"
    figures = {"skin": 0.2, "hair": 0.7}
    both = edit(model, IMAGES, regions=(*figures,), blend="local", **{name: (*figures.values(),)})
    masks = masks_of(model)[..., :2]
    for region, figure in figures.items():
        (i,) = region_indices((region,))
        alone = edit(model, IMAGES, regions=(region,), blend="local", **{name: figure})
        only_it = (neighbours(masks[..., i]).min(axis=0) == 1) & (
            neighbours(masks[..., 1 - i]).max(axis=0) == 0
        )
        assert only_it.any()
        assert_close(np.asarray(both)[only_it], np.asarray(alone)[only_it])


@each_edit
@pytest.mark.parametrize(
    ("figures", "what"),
    [
        ((0.1, 0.2, 0.3), r"shape \(3,\)"),
        ("0.6", "type str"),
        ({"hair": 0.6}, "type dict"),
        (None, "type NoneType"),
        (0.6j, "dtype complex64"),
        (True, "dtype bool"),
    ],
)
def test_figures_that_are_not_one_or_one_a_region_are_refused(model, edit, figures, what):
    name = "amount" if edit is EDITS["swap"] else "strength"
    with refused(f"{name} of {what}: give one number, or one for each of hair, lips"):
        edit(model, IMAGES, regions=("hair", "lips"), **{name: figures})


def test_harmonised_edits_add_what_changed_in_the_decode(model, key):
    structure, style = encode(model, IMAGES)
    change = decode(model, structure, style + 0.4 * noise(style.shape)) - decode(
        model, structure, style
    )
    edited = l2.edit(model, IMAGES, key, ("hair",), 0.4, harmonise=True)
    assert_close(edited, through_masks(model, IMAGES + change, ("hair",)))


@each_edit
def test_harmonised_edits_of_strength_0_change_nothing(model, edit):
    name = "amount" if edit is EDITS["swap"] else "strength"
    same = edit(model, IMAGES, regions=("hair", "skin"), **{name: 0.0}, harmonise=True)
    assert_close(same, blend(IMAGES, IMAGES, np.ones((3, HEIGHT, WIDTH, 1), np.float32), "paper"))


def test_local_leaves_pixels_outside_the_matte_bit_for_bit(model, key):
    outside = neighbours(masks_of(model)[..., 0]).max(axis=0) == 0
    edited = np.asarray(l2.edit(model, IMAGES, key, ("hair",), blend="local"))
    assert outside.any()
    np.testing.assert_array_equal(edited[outside], IMAGES[outside])
    assert (edited[~outside] != IMAGES[~outside]).mean() > 0.9


# ---------------------------------------------------------------------------------------------
# How they may be called.


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


@each_edit
@pytest.mark.parametrize("blend", ["paper", "local"])
def test_masks_that_are_known_need_no_smpn(model, edit, blend):
    options = {"regions": ("hair", "eyes"), "blend": blend}
    given = edit(L2SAE(model.smn), IMAGES, **options, masks=masks_of(model))
    assert_close(given, edit(model, IMAGES, **options))


def test_masks_may_be_bool(model, key):
    masks = masks_of(model)
    np.testing.assert_array_equal(
        l2.edit(model, IMAGES, key, masks=masks > 0), l2.edit(model, IMAGES, key, masks=masks)
    )


def test_images_may_be_a_list(model, key):
    np.testing.assert_array_equal(
        l2.edit(model, list(IMAGES), key), l2.edit(model, IMAGES, key, ("hair",))
    )


def test_only_the_masks_of_the_regions_named_are_used(model, key):
    masks = np.zeros((*IMAGES.shape[:3], 5), np.float32)
    masks[:, 5, 5, 1] = 1
    same = l2.edit(model, IMAGES, key, ("hair",), blend="local", masks=masks)
    np.testing.assert_array_equal(same, IMAGES)
    changed = np.asarray(l2.edit(model, IMAGES, key, ("skin",), blend="local", masks=masks))
    rows, columns = np.nonzero((changed != IMAGES).any(axis=(0, 3)))
    assert set(rows) == set(columns) == {4, 5, 6}


def test_masks_of_smaller_pictures_are_enlarged(model):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    smaller = L2SAE(model.smn, model.smpn, mask_reduction=2)
    assert smaller.image_size == 16 and L2SAE(None, model.smpn, 2).image_size == 32
    found = masks_of(smaller, images)
    # Each pixel of the small masks becomes four, of which edges may move some.
    means = images.reshape(2, 16, 2, 24, 2, 3).mean(axis=(2, 4))
    coarse = masks_of(model, means)
    assert found.shape == (2, 32, 48, 5) and 0 < coarse.mean() < 1
    inside = neighbourhood_minimum(coarse), neighbourhood_minimum(1 - coarse)
    for sure, value in zip(inside, (1, 0), strict=True):
        assert sure.any()
        assert (found.reshape(2, 16, 2, 24, 2, 5).transpose(0, 1, 3, 5, 2, 4)[sure] == value).all()
    with refused("images of height 18: this network reads multiples of 4 from 12 up"):
        l2.segment(smaller, images[:, :18])


def neighbourhood_minimum(masks: np.ndarray) -> np.ndarray:
    """Where masks `[B, H, W, R]` are 1 with all their neighbours."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = masks.shape[1:3]
    shifts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.min(shifts, axis=0) > 0


def test_bfloat16_keeps_the_masks():
    samples = Path(__file__).parents[1] / "samples"
    model = l2.load()
    photographs = [read_image(path) for path in find_images(samples)]
    pictures = [take(x, central_square(*x.shape[:2]), model.image_size) for x in photographs]
    images = np.float32(pictures) / 127.5 - 1
    config = dataclasses.replace(model.smpn.config, dtype="bfloat16")
    half = model.replace(smpn=model.smpn.replace(config=config))
    assert (masks_of(model, images) != masks_of(half, images)).mean() <= 0.005


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
        ({"regions": None}, "regions of type NoneType: expected a tuple of names"),
        ({"blend": "soft"}, "unknown blend 'soft': choose from paper, local"),
        ({"blend": ["paper"]}, r"unknown blend \['paper'\]: choose from paper, local"),
        ({"masks": "hair"}, "masks of type str: expected an array"),
        (
            {"masks": np.ones((3, HEIGHT, WIDTH, 5), np.uint8)},
            r"masks of dtype uint8: expected bool, or floats in \[0, 1\]",
        ),
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
        (np.zeros((1, 17, 16, 3), np.float32), "images of height 17: .* multiples of 2 from 6 up"),
        (np.zeros((1, 16, 4, 3), np.float32), "images of width 4: .* multiples of 2 from 6 up"),
        (
            np.zeros((16, 16, 3), np.float32),
            "images of shape .*: expected .batch, height, width, 3.",
        ),
        (np.zeros((1, 16, 16, 4), np.float32), "images of shape .*: expected"),
        (None, "images of type NoneType: expected an array"),
        ("face.png", "images of type str: expected an array"),
        ([IMAGES[0], IMAGES[0, :8]], "images of type list: expected an array"),
    ],
    ids=["uint8", "height", "width", "no batch", "channels", "none", "path", "several sizes"],
)
def test_images_it_cannot_read_are_refused(model, edit, images, message):
    with refused(message + ".*"):
        edit(model, images)


@pytest.mark.parametrize("function", [*EDITS.values(), l2.segment], ids=[*EDITS, "segment"])
def test_what_is_no_model_is_refused(model, function):
    for other, kind in (("models/mine", "str"), (None, "NoneType"), (model.smn, "Autoencoder")):
        with refused(f"model of type {kind}: expected an L2SAE, as l2sae_jax.load returns it"):
            function(other, IMAGES)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (3, r"dtype int32, shape \(\)"),
        (np.zeros(2, np.float32), r"dtype float32, shape \(2,\)"),
        (np.zeros(3, np.uint32), r"dtype uint32, shape \(3,\)"),
        ("seed", "type str"),
        (None, "type NoneType"),
    ],
)
@pytest.mark.parametrize("edit", [l2.edit, l2.edit_structure])
def test_what_is_no_key_is_refused(model, edit, key, what):
    with refused(rf"key of {what}: expected a key such as jax.random.key\(0\)"):
        edit(model, IMAGES, key)


def test_images_of_the_style_are_checked_by_their_own_name(model):
    for style_images, message in (
        (np.zeros((1, 16, 16, 3), np.uint8), "style_images of dtype uint8: expected floats in .*"),
        (np.zeros((1, 17, 16, 3), np.float32), "style_images of height 17: .*"),
        ("face.png", "style_images of type str: expected an array"),
    ):
        with refused(message):
            l2.swap(model, IMAGES, style_images)


def test_numbers_that_do_not_match_are_refused(model, key):
    with refused("2 style images for 3 images: give one, or one for each"):
        l2.swap(model, IMAGES, IMAGES[:2])
    with refused(r"keys of shape \(2,\): give one key, or one for each of 3"):
        l2.edit(model, IMAGES, jax.random.split(key, 2))
    with refused(r"masks of shape \(3, 16, 20, 1\): expected \(3, 16, 20, 5\), one for each .*"):
        l2.edit(model, IMAGES, key, masks=np.ones((3, 16, 20, 1), np.float32))


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
