"""Memory that a training process has once been given, kept for its next step."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_heap"]

# Names of glibc's mallopt(3).
_TRIM_THRESHOLD, _MAPS_MAX, _ARENA_MAX = -1, -4, -8


def keep_heap() -> bool:
    """Have the C library keep freed memory for the next use; return whether it could be told.

    A training step on a CPU takes its work space, some hundred megabytes, anew from the C library,
    which by default takes it from the system and gives it back: at each step every page is faulted
    in and cleared, a sixth of the step's time. To be called before the first array is made; only
    glibc can be told, elsewhere nothing happens. The memory is returned when the process ends.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tell is None:
        return False
    settings = {_ARENA_MAX: 1, _MAPS_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
    return all([tell(name, value) == 1 for name, value in settings.items()])
