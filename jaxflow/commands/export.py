"""Provide the command ``jaxflow export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxflow.commands._console import print_written
from jaxflow.commands._options import options


@options
class Export:
    """Export a trained run as a small folder: safetensors, vocabulary, model card.

    The effect of the lower precision is measured on the sentences it was not trained on. Of a
    README.md that is there only the measured part is written anew. The result
    is read by jaxflow explain --run DIR and by jaxflow.models.load.
    """

    run_folder: tyro.conf.Positional[Annotated[Path, "RUN"]]
    """The run's folder, as jaxflow train left it."""
    out: tyro.conf.Positional[Annotated[Path, "FOLDER"]]
    """The folder to write."""
    data: Path | None = None
    """Folder of the corpus, if it has moved since training."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the stored parameters."""

    def run(self) -> None:
        """Measure the model's accuracy and write the folder."""
        from jaxflow.eval.io.export import export_run

        print_written(
            export_run(self.run_folder, self.out, data=self.data, precision=self.precision)
        )
