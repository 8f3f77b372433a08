"""Every loss, its gradients and an Adam step agree with the PyTorch originals."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from agreement import L2S_128, SMALL_64, figures, noise_maps, parameters
from reference import tiny_architecture

from l2sae_jax.metrics.perceptual import load_lpips, lpips
from l2sae_jax.model import Autoencoder, AutoencoderConfig
from l2sae_jax.objectives import (
    CROP_CALLS,
    Crops,
    Draws,
    Objective,
    ObjectiveConfig,
    Share,
    branch_targets,
    leading,
    make_branches,
    pixel_weights,
    sample_crops,
    take_crops,
    total,
)
from l2sae_jax.regions import DEFAULT_SLICES, PART_LABELS
from l2sae_jax.torch_layout import entry_table
from l2sae_jax.training.state import make_optimizers

pytestmark = pytest.mark.usefixtures("compiled_as_for_users")

# The reference's names of the steps: ours, and what each trains.
STEPS = {
    "D": ("discriminator", "discriminator"),
    "R1": ("penalty", "discriminator"),
    "G": ("generator", "generator"),
}


def crops_of(arrays, step, calls, branches, batch):
    """The crops of a step: each branch makes all its calls before the next branch."""

    def call(c, field):
        stacked = [arrays[f"{step}/crop{k * calls + c}_{field}"] for k in range(branches)]
        return np.stack([x.reshape(batch, -1, *x.shape[1:]) for x in stacked], axis=1)

    return tuple(
        Crops(*(jnp.asarray(call(c, field)) for field in Crops._fields)) for c in range(calls)
    )


def evaluate(objective, params, arrays, targets, noise, step):
    """Loss terms of a step and the gradients of their total, for all four networks."""
    kind, _ = STEPS[step]
    images = jnp.asarray(arrays["image"])
    batch, branches = targets.shape[:2]
    crops = crops_of(arrays, step, CROP_CALLS[kind], branches, batch)
    decodes = (batch // 2 + batch, branches)
    noise = {name: jnp.broadcast_to(x, (*decodes, *x.shape[1:])) for name, x in noise.items()}

    def loss(params):
        terms = objective.losses(kind, params, images, targets, Draws(noise, crops))
        return total(terms), terms

    gradients, terms = jax.jit(jax.grad(loss, has_aux=True))(params)
    return terms, gradients


def lookup(tree, path):
    for part in path:
        tree = tree[part]
    return np.asarray(tree)


def assert_gradient_norms(gradients, architecture, arrays, step, scale):
    checked = 0
    for name, entry in entry_table(architecture).items():
        expected = arrays.get(f"{step}/gradnorm/{name}")
        if expected is not None and expected > 1e-6:
            ours = np.linalg.norm(scale * lookup(gradients, entry.path).astype(np.float64))
            assert ours == pytest.approx(expected, rel=1e-3), name
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("step", ["D", "R1", "G"])
def test_losses_gradients_and_adam_of_the_smn(step):
    arrays = figures("losses_64")
    objective = Objective(
        ObjectiveConfig(crops=4),
        AutoencoderConfig(SMALL_64.encoder, SMALL_64.decoder, 64),
        SMALL_64,
    )
    params = parameters(SMALL_64)
    targets = jnp.asarray(arrays["image"])[:, None]
    noise = noise_maps(figures("forward_64"))
    with jax.default_matmul_precision("highest"):
        terms, gradients = evaluate(objective, params, arrays, targets, noise, step)
    for name, term in terms.items():
        np.testing.assert_allclose(term, arrays[f"{step}/loss/{name}"], rtol=1e-5)

    lazy = 16 if step == "R1" else 1
    assert_gradient_norms(gradients, SMALL_64, arrays, step, lazy)

    config = ml_collections.ConfigDict(
        {"optimizer": {"learning_rate": 2e-3, "b1": 0.0, "b2": 0.99}}
    )
    optimizer = getattr(make_optimizers(config, objective.config), STEPS[step][1])
    stepped = [key for key in arrays if key.startswith(f"{step}/stepped/")]
    assert len(stepped) >= 4
    for key in stepped:
        entry = entry_table(SMALL_64)[key.split("/")[-1]]
        values, gradient = lookup(params, entry.path), lazy * lookup(gradients, entry.path)
        updates, _ = optimizer.update(gradient, optimizer.init(values), values)
        ours = entry.to_torch(np.asarray(optax.apply_updates(values, updates)))
        np.testing.assert_allclose(ours, arrays[key], atol=2e-4)


@pytest.mark.parametrize(
    ("step", "remat"),
    [
        ("D", "none"),
        ("R1", "none"),
        ("G", "none"),
        pytest.param("G", "regions", marks=pytest.mark.slow),
    ],
)
def test_sliced_losses_and_gradients(step, remat):
    arrays = figures("l2s_128")
    objective = Objective(
        ObjectiveConfig(kind="smpn", crops=2),
        AutoencoderConfig(L2S_128.encoder, L2S_128.decoder, 128, DEFAULT_SLICES, "masks"),
        L2S_128,
        remat,
    )
    params = parameters(L2S_128)
    targets = np.full((2, 5, 128, 128, 3), -1, np.float32)
    for i, (top, bottom, left, right) in enumerate(arrays["boxes"]):
        targets[:, i, top:bottom, left:right] = arrays["image"][:, top:bottom, left:right]
    with jax.default_matmul_precision("highest"):
        terms, gradients = evaluate(
            objective, params, arrays, jnp.asarray(targets), noise_maps(arrays), step
        )
    for name, term in terms.items():
        expected = arrays["R1/total" if step == "R1" else f"{step}/loss/{name}"]
        np.testing.assert_allclose(term, expected, rtol=1e-5)
    if step != "R1":
        assert_gradient_norms(gradients, L2S_128, arrays, step, 1)


def test_slices_of_the_128_pixel_model():
    arrays = figures("l2s_128")
    params = parameters(L2S_128)
    autoencoder = AutoencoderConfig(L2S_128.encoder, L2S_128.decoder, 128, DEFAULT_SLICES, "masks")
    with jax.default_matmul_precision("highest"):
        model = Autoencoder(params["encoder"], params["decoder"], autoencoder)
        structure, style = jax.jit(Autoencoder.encode)(model, arrays["image"])
        decode = jax.jit(Autoencoder.decode_branches)
        masks = make_branches(ObjectiveConfig("smpn"), autoencoder).channel_masks
        decoded = decode(model, structure, style, masks, noise_maps(arrays))
        np.testing.assert_allclose(structure, arrays["structure"], atol=2e-5)
        np.testing.assert_allclose(style, arrays["style"], atol=2e-5)
        for i in range(5):
            ours = decoded[:, i, ::4, ::4]
            np.testing.assert_allclose(ours, arrays[f"decode_roi{i}"], atol=2e-5)


# What the branches are ---------------------------------------------------------------------------


def config_with_slices():
    return AutoencoderConfig(SMALL_64.encoder, SMALL_64.decoder, 64, DEFAULT_SLICES, "masks")


def test_branches_of_the_three_objectives():
    autoencoder = config_with_slices()
    for kind, count in (("smn", 1), ("smpn", 5), ("joint", 6)):
        branches = make_branches(ObjectiveConfig(kind=kind), autoencoder)
        assert branches.channel_masks.shape == (count, 8)
        assert branches.weights.sum() == pytest.approx(1)
    joint = make_branches(ObjectiveConfig(kind="joint"), autoencoder)
    np.testing.assert_allclose(joint.weights, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(joint.channel_masks[0], 1)
    np.testing.assert_array_equal(joint.channel_masks[1:].sum(axis=0), 1)


def test_targets_of_the_three_objectives():
    images = jnp.full((1, 4, 4, 3), 0.25)
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 0, 0], labels[0, 1, 1] = PART_LABELS["hair"], PART_LABELS["u_lip"]
    smn = branch_targets(ObjectiveConfig(), images, labels)
    np.testing.assert_array_equal(smn, images[:, None])

    masks = np.asarray(branch_targets(ObjectiveConfig(kind="smpn"), images, labels))
    assert masks.shape == (1, 5, 4, 4, 3)
    assert masks[0, 0, 0, 0].tolist() == [1, 1, 1] and masks[0, 4, 1, 1].tolist() == [1, 1, 1]
    assert (masks == 1).sum() == 6

    joint = np.asarray(branch_targets(ObjectiveConfig(kind="joint"), images, labels))
    np.testing.assert_array_equal(joint[:, 0], images)
    assert joint[0, 1, 0, 0].tolist() == [0.25] * 3
    assert (joint[:, 1:] == 0.25).sum() == 6 and (joint[:, 1:] == -1).sum() == 5 * 48 - 6


def test_pixels_of_a_small_region_weigh_more():
    labels = np.zeros((2, 1, 4), np.uint8)
    labels[0, 0, 1:] = [PART_LABELS[part] for part in ("hair", "nose", "l_eye")]
    config = ObjectiveConfig(region_shares=(0.5, 0.5, 0.02, 0.01, 0.01))
    weights = pixel_weights(config, labels)
    np.testing.assert_allclose(weights[0, 0, :, 0], [1, 1, 7, 99**0.5], rtol=1e-6)
    np.testing.assert_array_equal(weights[1], 1)
    assert pixel_weights(ObjectiveConfig("smpn"), labels) is None


@pytest.mark.parametrize("remat", ["none", "regions"])
def test_weights_of_pixels_count_in_every_branch(monkeypatch, remat):
    config = ObjectiveConfig("smpn", gan=0.0, patch=0.0)
    objective = Objective(config, config_with_slices(), SMALL_64, remat)
    targets = jax.random.uniform(jax.random.key(0), (4, 5, 2, 2, 3))
    monkeypatch.setattr(Objective, "encode", lambda *_: None)
    monkeypatch.setattr(
        Objective,
        "rec_and_mix",
        # The decodes are half the targets, whichever branches are asked for.
        lambda self, params, codes, share: (0.5 * share.targets[:2], None),
    )
    weights = jax.random.uniform(jax.random.key(1), (4, 2, 2, 1))
    found = objective.losses("generator", {}, targets[:, 0], targets, Draws(None, ()), weights)
    expected = np.mean(0.5 * np.asarray(targets) * np.asarray(weights)[:, None], axis=(1, 2, 3, 4))
    assert total(found) == pytest.approx(np.mean(expected[:2]), rel=1e-5)


def test_logistic_reconstruction_pulls_hardest_where_a_mask_is_wrong():
    config = ObjectiveConfig("smpn", gan=0.0, patch=0.0, reconstruction="logistic")
    objective = Objective(config, config_with_slices(), SMALL_64)
    targets = jnp.full((1, 5, 2, 2, 3), -1.0).at[:, :, 0, 0].set(1.0)
    wrong = jnp.full_like(targets, -2.0)
    loss, gradient = jax.value_and_grad(lambda rec: jnp.mean(objective._error(rec, targets)))(wrong)
    assert loss == pytest.approx((np.log1p(np.exp(4)) + 3 * np.log1p(np.exp(-4))) / 4, rel=1e-5)
    assert (np.asarray(gradient)[:, :, 0, 0] < 20 * np.asarray(gradient)[:, :, 1, 1]).all()
    with pytest.raises(ValueError, match="'logistic' is for masks"):
        ObjectiveConfig("smn", reconstruction="logistic")


@pytest.mark.slow
def test_recolouring_reads_the_structure_from_other_colours_than_the_style():
    architecture = tiny_architecture(image_discriminator=None, patch_discriminator=None)
    autoencoder = AutoencoderConfig(architecture.encoder, architecture.decoder, 32)
    config = ObjectiveConfig(gan=0.0, patch=0.0, reconstructed=1.0)
    objective = Objective(config, autoencoder, architecture)
    params = architecture.init(jax.random.key(0))
    images, others = jax.random.uniform(jax.random.key(1), (2, 2, 32, 32, 3), minval=-1, maxval=1)

    @jax.jit
    def reconstruct(images, recoloured):
        targets = branch_targets(config, images, None)
        share = Share(objective.branches, targets, None, None, ())
        codes = objective.encode(params, images, recoloured)
        rec, mix = objective.rec_and_mix(params, codes, share)
        assert mix.shape[0] == 0
        return rec[:, 0]

    model = Autoencoder(**params, config=autoencoder)
    expected = jax.jit(Autoencoder.decode)(model, model.encode(others)[0], model.encode(images)[1])
    np.testing.assert_allclose(reconstruct(images, others), expected, atol=1e-5)
    assert np.abs(reconstruct(images, others) - reconstruct(images, None)).max() > 1e-3


def perceptual_objective(metric, share):
    architecture = tiny_architecture(image_discriminator=None, patch_discriminator=None)
    autoencoder = AutoencoderConfig(architecture.encoder, architecture.decoder, 32)
    config = ObjectiveConfig(l1=0.0, gan=0.0, patch=0.0, perceptual=0.5, reconstructed=share)
    return Objective(config, autoencoder, architecture, perceptual=metric)


def test_the_perceptual_loss_compares_reconstructions_with_their_pictures(monkeypatch):
    def distance(metric, a, b):
        assert metric == "the metric"
        return jnp.mean(jnp.square(a - 2.0 * b), axis=(1, 2, 3))

    monkeypatch.setattr("l2sae_jax.objectives.lpips", distance)
    objective = perceptual_objective("the metric", 0.5)
    rec, images = jax.random.uniform(jax.random.key(0), (2, 4, 1, 8, 8, 3))
    monkeypatch.setattr(Objective, "rec_and_mix", lambda *_: (rec[:2], rec[2:]))
    share = Share(objective.branches, images, None, None, ())
    found = objective._generator_losses({}, None, share)
    assert list(found) == ["G_LPIPS"]
    expected = 0.5 * np.mean(np.square(rec[:2] - 2.0 * images[:2]))
    assert total(found) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="perceptual compares pictures, not masks"):
        ObjectiveConfig("smpn", perceptual=1.0)


@pytest.mark.slow
def test_the_perceptual_loss_is_lpips_and_reaches_the_networks():
    metric = load_lpips("alexnet")
    objective = perceptual_objective(metric, 1.0)
    params = objective.architecture.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3), minval=-1, maxval=1)

    def loss(params):
        draws = Draws(None, ())
        return total(objective.losses("generator", params, images, images[:, None], draws))

    model = Autoencoder(**params, config=objective.autoencoder)
    expected = 0.5 * jnp.mean(lpips(metric, model.decode(*model.encode(images)), images))
    found, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert np.abs(gradient["encoder"]["from_rgb"]["kernel"]).max() > 0
    assert np.abs(gradient["decoder"]["to_rgb"]["kernel"]).max() > 0


# What is random ----------------------------------------------------------------------------------


def test_crops_lie_inside_and_vary():
    config = ObjectiveConfig(crops=64)
    crops = sample_crops(jax.random.key(0), config)
    assert set(np.unique(crops.flip)) == {-1.0, 1.0}
    assert (crops.scale >= 1 / 8).all() and (crops.scale <= 1 / 4).all()
    assert (np.abs(crops.offset) + crops.scale <= 1.0 + 1e-6).all()
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 32)[None, :, None], (32, 32, 3))
    patches = np.asarray(take_crops(ramp, crops, 8))
    mirrored = patches[:, :, 0].mean(axis=(1, 2)) > patches[:, :, -1].mean(axis=(1, 2))
    inside = np.abs(crops.offset[:, 0]) + crops.scale[:, 0] < 0.95  # beyond lie zeros, no ramp
    np.testing.assert_array_equal(mirrored[inside], crops.flip[inside] < 0)
    assert inside.sum() > 32


def test_a_samples_draws_do_not_depend_on_the_batch():
    objective = Objective(ObjectiveConfig(kind="smpn"), config_with_slices(), SMALL_64)
    keys = jax.random.split(jax.random.key(0), 8)
    draw = jax.jit(lambda keys: objective.draws("generator", keys, 64, 64))
    eight, four = draw(keys), draw(keys[:4])
    for a, b in zip(eight.crops, four.crops, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:4], y), a, b)


def test_of_every_four_neighbours_the_first_are_taken():
    def taken(batch, share):
        return np.asarray(leading(jnp.arange(batch), share)).tolist()

    assert taken(8, 0.5) == [0, 1, 4, 5] and taken(8, 0.25) == [0, 4]
    assert taken(8, 1.0) == list(range(8)) and taken(8, 0.0) == []
    assert taken(2, 0.5) == [0] and taken(6, 0.5) == [0, 1, 2] and taken(1, 1.0) == [0]


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="objective kind 'gan': choose smn, smpn or joint"):
        ObjectiveConfig(kind="gan")
    with pytest.raises(ValueError, match=r"reconstructed 0.3: expected 0.25, 0.5, 0.75 or 1"):
        ObjectiveConfig(reconstructed=0.3)
