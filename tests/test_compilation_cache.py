"""Where compiled programs are kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from l2sae_jax.compilation_cache import keep_compiled_programs

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nowhere():
    """A JAX that was told of no folder; afterwards the session's folder is back."""
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in options}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert keep_compiled_programs() == tmp_path / "mine" / "l2sae_jax"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine" / "l2sae_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    assert keep_compiled_programs() == tmp_path / ".cache" / "l2sae_jax"


def test_a_folder_that_jax_was_told_of_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert keep_compiled_programs() == tmp_path


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
def test_a_program_started_again_compiles_nothing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment["XDG_CACHE_HOME"] = str(tmp_path)

    def start(output: str) -> set[Path]:
        command = [sys.executable, "edit.py", "samples/astronaut.png", "--blend=local"]
        subprocess.run(
            [*command, f"--output={tmp_path / output}"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        return {path for path in (tmp_path / "l2sae_jax").iterdir() if "-cache" in path.name}

    first = start("first")
    assert first and start("second") == first
    pictures = [tmp_path / output / "astronaut_hair_s0.png" for output in ("first", "second")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
