"""Compiled programs are kept where the user's caches are, for one block only, or not at all."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from jaxflow.commands._runtime import compilation_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache, with none of JAX's own: the session's is put aside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    jax_cache.reset_cache()
    yield tmp_path / "jaxflow" / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    jax_cache.reset_cache()


def compile_something(number):
    """Compile a program of its own."""

    @jax.jit
    def work(values):
        for turn in range(3):
            values = jnp.sort(jnp.sin(values) * (number + turn)) @ values
        return values

    work(jnp.eye(7)).block_until_ready()


def test_programs_are_kept_in_the_block_only(cache, monkeypatch):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    compile_something(1)
    with compilation_cache():
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compile_something(2)
    kept = sorted(cache.iterdir())
    assert any("jit_work" in path.name for path in kept)
    compile_something(3)
    assert sorted(cache.iterdir()) == kept
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_a_cache_that_cannot_be_written_is_none(cache, tmp_path):
    (tmp_path / "jaxflow").write_text("in the way")
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir is None
        compile_something(4)


def test_the_users_own_folder_is_left_in_place(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    try:
        with compilation_cache():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)


def test_an_error_leaves_nothing_changed(cache):
    with pytest.raises(KeyError), compilation_cache():
        raise KeyError
    assert jax.config.jax_compilation_cache_dir is None
