"""Run by test_composing.py: a batch of pictures spread over 8 devices, in plain jitted code."""

import json

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny_models import HEIGHT, WIDTH, every_edit, separate_networks


def main() -> None:
    model = separate_networks()
    images = np.random.default_rng(3).uniform(-1, 1, (8, HEIGHT, WIDTH, 3)).astype(np.float32)
    run = jax.jit(every_edit)
    expected = run(model, images)
    found = {}
    for axis in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(axis,))
        sharded = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
        everywhere = jax.device_put(model, NamedSharding(mesh, PartitionSpec()))
        for name, array in run(everywhere, sharded).items():
            difference = np.abs(np.asarray(array) - np.asarray(expected[name])).max()
            rows = [shard.data.shape[0] for shard in array.addressable_shards]
            found[f"{axis.name}: {name}"] = (float(difference), rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
