"""Readers of arrays: saved attention, scores of an evaluation, pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzzing.cases import Case, Reader
from fuzzing.mutate_binary import mutate_npz
from fuzzing.mutate_text import mutate_bytes, mutate_case
from jaxflow.eval.explain.patches import read_picture
from jaxflow.eval.paper.scores import ENTROPY_ROWS, ROWS, TARGETS, SentenceScores
from jaxflow.eval.score.attention import read_attention

__all__ = ["READERS"]


def _npz(arrays: dict[str, Any], *, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def attention_seeds() -> list[Case]:
    rng = np.random.default_rng(0)
    attention = rng.dirichlet(np.ones(3), (2, 2, 1, 3)).astype(np.float32)
    masked = attention.copy()
    masked[..., 2], masked[..., 1] = 0, 1 - masked[..., 0]
    arrays = {
        "attention": masked,
        "mask": np.array([[True, True, False]] * 2),
        "tokens": np.array([["a", "b", "[PAD]"]] * 2),
    }
    return [
        {"a.npz": _npz({"attention": attention.astype(np.float64)})},
        {"a.npz": _npz(arrays)},
        {"a.npz": _npz(arrays, packed=True)},
        {"a.npz": _npz({"attention": np.asfortranarray(attention), "tokens": np.arange(3)})},
    ]


def npz_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    return mutate_case(rng, case, others, lambda rng, name, content: mutate_npz(rng, content))


def attention_oracle(folder: Path, case: Case, value: Any) -> None:
    with np.load(folder / "a.npz", allow_pickle=False) as file:
        for name in ("attention", "mask", "tokens"):
            found = getattr(value, name)
            if name not in file.files:
                assert found is None
                continue
            np.testing.assert_array_equal(found, file[name])
            assert found.dtype == file[name].dtype
            assert found.dtype.kind in "biufcSUMmV"
    assert np.isfinite(value.attention).all()
    assert (value.attention >= 0).all()


def scores_seeds() -> list[Case]:
    rng = np.random.default_rng(0)
    arrays = {f"{target}/{row}": rng.normal(size=(3, 2)) for target in TARGETS for row in ROWS}
    arrays |= {f"entropy/{row}": rng.random((3, 2)) for row in ENTROPY_ROWS}
    arrays |= {"saturated": rng.random((3, 2)), "length": np.array([4, 5, 6])}
    return [{"scores.npz": _npz(arrays)}, {"scores.npz": _npz(arrays, packed=True)}]


def scores_oracle(folder: Path, case: Case, value: Any) -> None:
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        for name, values in value.arrays().items():
            np.testing.assert_array_equal(values, file[name])
            assert values.dtype.kind in "iuf"


def picture_seeds() -> list[Case]:
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(values)
    plain = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "upright"
    # Format -> the picture and the options that bring the most of its reader to work.
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "PNG": (image, {"exif": exif}),
        "JPEG": (plain, {"exif": exif}),
        "GIF": (plain, {"save_all": True, "append_images": [plain]}),
        "BMP": (plain, {}),
        "TIFF": (plain, {"compression": "tiff_lzw", "exif": exif}),
        "WEBP": (image, {"exif": exif}),
        "PPM": (plain, {}),
        "EPS": (plain, {}),
        "TGA": (plain, {}),
        "ICO": (image, {}),
        "JPEG2000": (plain, {}),
        "PCX": (plain, {}),
        "DDS": (image, {}),
        "ICNS": (image.resize((16, 16)), {}),
        "SGI": (plain, {}),
    }
    made: list[Case] = []
    for kind, (picture, options) in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made.append({"picture": buffer.getvalue()})
    buffer = io.BytesIO()
    plain.quantize(4).save(buffer, "PNG", transparency=1)
    return [*made, {"picture": buffer.getvalue()}]


def picture_case(rng: Random, case: Case, others: Sequence[Case]) -> Case:
    def change(rng: Random, name: str, content: bytes) -> bytes:
        # Sizes, offsets and kinds stand in the first bytes of nearly all formats.
        if rng.random() < 0.5:
            edge = rng.randint(8, 200)
            return mutate_bytes(rng, content[:edge]) + content[edge:]
        return mutate_bytes(rng, content)

    return mutate_case(rng, case, others, change)


def picture_oracle(folder: Path, case: Case, value: Any) -> None:
    from PIL import Image

    assert value.dtype == np.uint8
    assert value.ndim == 3
    assert value.shape[-1] == 3
    # Out of memory, where Pillow reads PCX files too that are shorter than a table of colours.
    with Image.open(io.BytesIO(case["picture"] or b"")) as opened:
        assert sorted(opened.size) == sorted(value.shape[:2])


READERS = (
    Reader(
        "attention npz",
        attention_seeds,
        lambda folder: read_attention(folder / "a.npz"),
        npz_case,
        attention_oracle,
        share=3,
    ),
    Reader(
        "scores npz",
        scores_seeds,
        lambda folder: SentenceScores.load(folder / "scores.npz"),
        npz_case,
        scores_oracle,
        share=0.3,
    ),
    Reader(
        "picture",
        picture_seeds,
        lambda folder: read_picture(folder / "picture"),
        picture_case,
        picture_oracle,
        share=1,
        # A picture of 16 million pixels, which is read from any file, once more in RGB.
        room=320 << 20,
    ),
)
