"""Compiled programs kept on disk, so that the same command compiles them once a machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_programs"]


@contextmanager
def kept_programs() -> Iterator[None]:
    """Let JAX keep what it compiles in this block in the user's cache, ``jaxflow/compiled``.

    JAX keys each program by its code, its compiler and the machine. Where the user has told JAX of
    a folder already, that one is used; where it cannot be written, nothing is kept.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from jaxflow.train.corpus import default_cache

    folder = default_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = getattr(jax.config, "jax_compilation_cache_dir", None) is None
    except OSError:
        usable = False
    if not usable:
        yield
        return
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX decides at its first program whether it keeps any
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Error (reading|writing) persistent")
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
