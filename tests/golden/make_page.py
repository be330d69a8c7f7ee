"""Draws flow_graph.png, which the browser tests compare the page's flow graph with.

python tests/golden/make_page.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

if __name__ == "__main__":
    tests = HERE.parent / "html" / "test_page_browser.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", str(tests), "-k", "stored_picture"]
    environment = {**os.environ, "JAXFLOW_DRAW_GOLDEN": str(HERE / "flow_graph.png")}
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)
