"""Shared by all tests: most of their time is compilation, so there is as little as can be."""

import os

import jax
import pytest


def pytest_collection_modifyitems(items):
    """The longest files first, or one worker is left with them in the end."""
    longest = "test_objectives.py", "test_scaling.py", "test_training.py"
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Keeps compiled functions on disk until the session ends: nothing is compiled twice.

    Programs that tests start find the folder in their environment, and leave the user's alone.
    """
    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Leaves out most of XLA's optimisations, and forgets compiled functions after each file."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_as_for_users(quick_compilation):
    """All optimisations, for figures that must agree to rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
