"""Start Python with more devices: JAX counts them once a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]

# Devices of the host's cores wait for each other, and XLA ends the program where one is late: on a
# machine that is busy all of them are.
PATIENT = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=3600 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=3600"
)


def environment(devices: int = 1) -> dict[str, str]:
    """This process's environment, with so many devices on the host's cores."""
    counted = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {PATIENT} {counted}"
    path = os.pathsep.join([str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path}


def start_on_devices(devices: int, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script of this folder."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / script), *map(str, arguments)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_on_devices(devices: int, script: str, *arguments: object) -> Any:
    """Run a script of this folder and return what it prints last, as JSON."""
    process = start_on_devices(devices, script, *arguments)
    out, complaint = process.communicate()
    assert process.returncode == 0, complaint
    return json.loads(out.splitlines()[-1])
