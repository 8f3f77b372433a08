"""Stopping at a scheduler's request: SIGTERM ends a run between two steps, on all processes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from l2sae_jax.parallel import shard_rows, whole


class StoppedError(Exception):
    """A run was asked to stop, and was saved; it can go on."""


class StopRequests:
    """Whether any process was asked to stop, told to all of them at the same step.

    The answer is an array like a step's losses: it is asked for with every step and read some steps
    later, so that nobody waits for it.
    """

    def __init__(self, mesh: Mesh):
        self._asked = False
        self._mesh = mesh
        self._any = jax.jit(jnp.any, out_shardings=whole(mesh))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes SIGTERM as a request. A second one does what the first would have done before."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only there does Python allow handlers
            return
        before = signal.getsignal(signal.SIGTERM)

        def ask(number, frame):
            self._asked = True
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def any(self) -> Bool[Array, ""]:
        """Whether any process has been asked by now; all call it, equally often."""
        mine = np.full(len(self._mesh.local_devices), self._asked)
        return self._any(shard_rows(mine, self._mesh))
