"""Run by evaluation/test_measuring.py: a batch measured on 8 devices, and on one of them."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from evaluation_cases import examples
from tiny_models import separate_networks

from l2sae_jax.evaluation import Protocol
from l2sae_jax.evaluation.batches import batches
from l2sae_jax.evaluation.measuring import Instruments, measure, prepare
from l2sae_jax.evaluation.systems import ModelSystem
from l2sae_jax.parallel import make_mesh, whole

PROTOCOL = Protocol(measures=("segmentation", "reconstruction", "edit", "sweep", "swap"))


def main() -> None:
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = make_mesh(devices)
        model = jax.device_put(separate_networks(), whole(mesh))
        system = ModelSystem("tiny", model, PROTOCOL, mesh)
        (batch,) = batches(examples(11), 11, 16)
        task = prepare(system, batch, PROTOCOL, Instruments({}, None, model), mesh)
        found.append({k: v for n in PROTOCOL.measures for k, v in measure(task, n).items()})
    assert len(jax.devices()) == 8
    for name, column in found[0].items():
        assert len(column) == 11
        np.testing.assert_allclose(found[1][name], column, rtol=1e-4, atol=1e-4, err_msg=name)


if __name__ == "__main__":
    main()
