"""Set strict numerics for all tests, and provide the fixtures of a session.

Expensive fixtures are made once a session, by the worker that needs them first, and must not be
written to: a test that changes files takes a copy (`shutil.copytree`).

* ``corpus``: folder of the small agreement corpus (`small_corpus.write_small_corpus`).
* ``trained_run``: a run trained on it by ``small_config(corpus, epochs=1, layers=2)``.
* ``agreement``: the bundled model, loaded once a process.
* `session.once_a_session`: makes a folder of your own once for all workers.
* `tiny_models.tiny`: tiny published models, each made once a process.

All tests and the processes they start share one folder of compiled programs
(``JAX_COMPILATION_CACHE_DIR``) and one of prepared corpora (``XDG_CACHE_HOME``): set another one
only where the cache itself is tested. A process that is killed while it writes a program leaves
half an entry; JAX cannot decompress it, warns and compiles again. The warning is ignored.

A campaign or other work of minutes is marked ``nightly`` and run by ``pytest -m nightly`` only.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

# A shell has background processes ignore Ctrl-C, which is inherited: the tests of signals need the
# handling of a foreground process.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first process of the session makes its folder; workers and what they start inherit it.
if "JAXFLOW_TEST_SESSION" not in os.environ:
    os.environ["JAXFLOW_TEST_SESSION"] = tempfile.mkdtemp(prefix="jaxflow-test-session-")
    os.environ["JAXFLOW_TEST_OWNER"] = str(os.getpid())
os.environ["XDG_CACHE_HOME"] = os.path.join(os.environ["JAXFLOW_TEST_SESSION"], "cache")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["JAXFLOW_TEST_SESSION"], "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("PYTHONWARNINGS", "ignore:Error reading persistent compilation cache")

# Nearly all of the suite's time is compiling small programs that run once. XLA reads this when its
# first backend starts, and the processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
from hypothesis import HealthCheck, settings
from session import once_a_session

# Shapes must meet by intent: [n] + [L, n] is an error here, not a broadcast.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling makes the first example slow, and a busy machine any of them: nothing is timed.
settings.register_profile(
    "jaxflow",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
# To look further than the suite does: pytest --hypothesis-profile=explore
settings.register_profile(
    "explore", settings.get_profile("jaxflow"), derandomize=False, max_examples=1000
)
settings.load_profile("jaxflow")

#: Resident bytes above which a process forgets its compiled programs: beyond, it gets slow.
LARGE = 3 * 2**30


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the small agreement corpus; read only."""
    from small_corpus import write_small_corpus

    return once_a_session("corpus", write_small_corpus)


@pytest.fixture(scope="session")
def trained_run(corpus: Path) -> Path:
    """Folder of a run of two layers, one epoch and 10 steps on `corpus`; read only."""
    from small_corpus import small_config

    from jaxflow.train.loop import train

    config = small_config(corpus, epochs=1, layers=2)
    return once_a_session("trained-run", lambda folder: train(config, folder))


@pytest.fixture(scope="session")
def agreement():
    """Return the bundled model."""
    from jaxflow.models import load

    return load("agreement")


def resident_bytes() -> float:
    """Return the memory this process has now; infinite where that cannot be found out."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return float("inf")


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    yield
    if resident_bytes() > LARGE:
        jax.clear_caches()


def pytest_unconfigure(config):
    if os.environ.get("JAXFLOW_TEST_OWNER") == str(os.getpid()):
        shutil.rmtree(os.environ["JAXFLOW_TEST_SESSION"], ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured; their own output is lost where several processes run them."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"measured: {value}")
