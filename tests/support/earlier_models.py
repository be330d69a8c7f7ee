"""Write agreement encoders in the layouts of earlier versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def earlier(files: Mapping[str, bytes], layout: str) -> dict[str, bytes]:
    """Turn the files that `save` writes into a ``run``'s or an ``export``'s of before."""
    fields = json.loads(files["config.json"])
    parameters, words = files["model.safetensors"], files["vocab.txt"]
    if layout == "run":
        content = {"params.safetensors": parameters, "vocabulary.txt": words}
        sealed = {name: checksum(data) for name, data in content.items()}
        sealed["config"] = checksum(canonical(fields["encoder"]))
        card = {"format": "jaxflow-encoder-2", "config": fields["encoder"], "sha256": sealed}
        return content | {"model.json": json.dumps(card).encode()}
    accuracy = files.get("accuracy.json", b"{}")
    content = {
        "model.safetensors": parameters, "vocabulary.txt": words, "accuracy.json": accuracy,
    }  # fmt: skip
    card = {
        "format": "jaxflow-encoder-export-1",
        "encoder": fields["encoder"],
        "precision": fields["dtype"],
        "recipe": fields.get("recipe", {}),
        "sha256": {name: checksum(data) for name, data in content.items()},
    }
    return content | {"config.json": json.dumps(card).encode()}
