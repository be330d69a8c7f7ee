"""``jaxflow export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxflow.commands._console import print_written
from jaxflow.commands._options import options


@options
class Export:
    """Write a trained run as a small folder to hand on: safetensors, vocabulary, model card.

    What storing it less precisely changes is measured on the sentences it was not trained on. A
    README.md that is there keeps its own words, only its measured part is written anew. The result
    is read by jaxflow explain --run DIR and by jaxflow.models.load.
    """

    run_folder: tyro.conf.Positional[Annotated[Path, "RUN"]]
    """The run's folder, as jaxflow train left it."""
    out: tyro.conf.Positional[Annotated[Path, "FOLDER"]]
    """The folder to write."""
    data: Path | None = None
    """Where the corpus lies now, if it has moved since training."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the stored parameters."""

    def run(self) -> None:
        """Measure and write."""
        from jaxflow.eval.io.export import export_run

        print_written(
            export_run(self.run_folder, self.out, data=self.data, precision=self.precision)
        )
