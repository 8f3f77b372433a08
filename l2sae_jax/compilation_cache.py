"""Compiled programs kept on disk, so that a program started again need not compile again."""

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """Where this user's caches are: `l2sae_jax` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2sae_jax"


def keep_compiled_programs() -> Path | None:
    """Has JAX keep what it compiles in this user's cache folder, for programs to call at start.

    The folder is `cache_folder()`; what JAX_COMPILATION_CACHE_DIR names takes its place.
    JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.

    Returns:
      The folder, or None where it cannot be written: then nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir:
        return Path(jax.config.jax_compilation_cache_dir)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder
