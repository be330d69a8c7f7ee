"""Make folders once a test session, for all workers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def once_a_session(name: str, make: Callable[[Path], object]) -> Path:
    """Return the session's folder `name`, which `make` fills the first time; not to be changed."""
    session = Path(os.environ["JAXFLOW_TEST_SESSION"])
    folder, part = session / name, session / f"{name}.part"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(folder)
    return folder
