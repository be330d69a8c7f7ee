"""Write figures.json, the fingerprints of the figures, which must be inspected before.

python tests/golden/make_figures.py FOLDER also writes the figures to the folder, to be looked at.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import figure_data
import pictures

from jaxflow.eval.plots.catalogue import write_figures

if __name__ == "__main__":
    figures = figure_data.every_figure()
    if len(sys.argv) > 1:
        write_figures(Path(sys.argv[1]), figures, ("png",))
    hashes = {name: pictures.fingerprint(figure) for name, figure in figures.items()}
    path = Path(__file__).with_name("figures.json")
    path.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
