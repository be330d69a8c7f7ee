"""Score shards, and kill itself on request; run by `tests/eval/test_sharded.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jaxflow.commands import main


def die_in_the_middle_of_the_second_file() -> None:
    """Let the second shard be half written beside its place when the process is killed."""
    write, written = pq.write_table, []

    def write_or_die(table: Any, path: Path, **options: Any) -> None:
        write(table, path, **options)
        written.append(path)
        if len(written) == 2:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    pq.write_table = write_or_die


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        die_in_the_middle_of_the_second_file()
    sys.exit(main(sys.argv[2:]))
