"""What every test stands on: strict numerics and deterministic property tests."""

import os
import signal

# A shell lets what it starts in the background ignore Ctrl-C, and processes inherit that: the tests
# of signals ask for what a command in the foreground does.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nearly all of the suite's time is compiling small programs that run once. XLA reads this when its
# first backend starts, and the processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
from hypothesis import HealthCheck, settings

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


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Let go of what a file has compiled: no other runs it, and a process of 5 GB is a slow one."""
    yield
    jax.clear_caches()


def pytest_terminal_summary(terminalreporter):
    """Print what tests measured; their own output is lost where several processes run them."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"measured: {value}")
