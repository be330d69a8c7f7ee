"""Make folders once a test session, for all workers; expect unusable input to be refused."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from jaxflow.errors import InputError


def once_a_session(name: str, make: Callable[[Path], object]) -> Path:
    """Return the session's folder `name`, which `make` fills the first time; not to be changed."""
    if "JAXFLOW_TEST_SESSION" not in os.environ:  # outside pytest
        os.environ["JAXFLOW_TEST_SESSION"] = tempfile.mkdtemp(prefix="jaxflow-test-session-")
        atexit.register(shutil.rmtree, os.environ["JAXFLOW_TEST_SESSION"], ignore_errors=True)
    session = Path(os.environ["JAXFLOW_TEST_SESSION"])
    folder, part = session / name, session / f"{name}.part"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(folder)
    return folder


@contextmanager
def refused(match: str) -> Iterator[None]:
    """Expect an `InputError` of one line that matches."""
    with pytest.raises(InputError, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
