"""The paper's setting: its networks are those of the published checkpoints."""

import jax
import numpy as np
import pytest
from reference import COUNTER, buffer, load_manifests
from training_runs import load_config

from l2sae_jax.convert import infer_architecture
from l2sae_jax.parallel import make_mesh
from l2sae_jax.training.loop import read_config

CONFIGS = ("celebamask_hq_256", "celebamask_hq_512")
KINDS = ("smn", "smpn", "joint")


def objective_of(name, kind):
    """The objective of a config that one device can train."""
    return read_config(load_config(name, kind), make_mesh(jax.devices()[:1]))[0]


@pytest.fixture(scope="module")
def published():
    """The architecture of the ffhq512 checkpoint."""
    shapes = load_manifests()["ffhq512"]["entries"]
    return infer_architecture(
        {
            name: buffer(name, shape) if name.endswith("kernel") else np.empty(shape, np.float32)
            for name, shape in shapes.items()
            if name != COUNTER
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_networks_at_512_px_can_start_from_ffhq512(kind, published):
    assert objective_of("celebamask_hq_512", kind).architecture == published


@pytest.mark.parametrize("kind", KINDS)
def test_at_256_px_all_but_the_image_discriminator_can(kind, published):
    ours = objective_of("celebamask_hq_256", kind).architecture
    alike = [name for name in ours.present() if getattr(ours, name) == getattr(published, name)]
    assert alike == ["encoder", "decoder", "patch_discriminator"]


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_are_the_same_on_up_to_four_devices(name):
    for kind in KINDS:
        config = load_config(name, kind)
        assert config.batch_size == 16 and config.batch_size % (4 * config.accumulate) == 0


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="objective kind 'gan': choose smn, smpn or joint"):
        load_config("celebamask_hq_256", "gan")
