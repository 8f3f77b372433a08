"""How a run is computed, as against what: memory, precision, and the division of a batch."""

from dataclasses import dataclass, fields
from typing import Literal

from l2sae_jax.configuration import from_dict
from l2sae_jax.objectives import Objective, Remat


@dataclass(frozen=True)
class Scaling:
    """Fields of a training config that may be absent; their defaults are these.

    Attributes:
      remat: what is computed again for the gradient instead of being kept: "none", the inside of
        every residual block ("blocks"), or that and whole branches, one after the other
        ("regions").
      accumulate: parts of a device's rows whose gradients are computed one after the other.
      shard_optimizer: whether every device keeps its part of the optimisers' state, not all.
      precision: of matrix products and convolutions of float32.
    """

    remat: Remat = "none"
    accumulate: int = 1
    shard_optimizer: bool = False
    precision: Literal["default", "high", "highest"] = "default"

    def __post_init__(self):
        choices = {"remat": ("none", "blocks", "regions")}
        choices["precision"] = ("default", "high", "highest")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"config.{name} {getattr(self, name)!r}: choose {', '.join(allowed)}"
                )
        if self.accumulate < 1:
            raise ValueError(f"config.accumulate {self.accumulate}: expected 1 or more")
        if not isinstance(self.shard_optimizer, bool):
            raise ValueError(f"config.shard_optimizer {self.shard_optimizer!r}: choose True, False")


def make_scaling(config) -> Scaling:
    """The scaling that a training config asks for.

    Raises:
      ValueError: a value that is none of those above; in one line.
    """
    names = [field.name for field in fields(Scaling)]
    return from_dict(Scaling, {name: config[name] for name in names if name in config})


def check_batch(batch_size: int, objective: Objective, scaling: Scaling, devices: int) -> None:
    """Raises ValueError, naming the field, unless a batch divides among devices and their parts.

    Mixing and partial reconstruction go by fours of neighbours, which must not be torn apart.
    """
    cfg = objective.config
    if cfg.adversarial and batch_size % 2:
        raise ValueError(f"config.batch_size {batch_size}: mixing needs an even number")
    parts = devices * scaling.accumulate
    by_fours = parts > 1 and (cfg.adversarial or cfg.reconstructed < 1)
    step = 4 * parts if by_fours else parts
    if batch_size % step or not batch_size:
        raise ValueError(
            f"config.batch_size {batch_size}: expected a multiple of {step}, {step // parts} for "
            f"each of {devices} devices and config.accumulate {scaling.accumulate}"
        )
