"""Write arrays to an npz file one by one, and read npz files of unknown origin safely.

Pickles are refused, and the memory for reading is bounded by the file's size. A zip member, or an
array's header, may claim any size, so both are checked against the file before memory is allocated.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Collection, Iterable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxflow.errors import InputError

#: Limit of a file's arrays in memory: this, or so many times the file if that is more.
MOST_BYTES, MOST_TIMES = 1 << 30, 100
# Deflate expands a byte to at most 1,032, so a member that claims more is forged.
_DEFLATE = 1_040


def read_npz(
    path: str | PathLike[str], names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays of an npz file: those of `names` that are there, or all.

    Raises `InputError` if the file cannot be read or is damaged, an array is one of pickled
    objects, or the arrays would take more than 1 GiB and more than 100 times the file's own size.
    """
    name = ""
    try:
        with open(path, "rb") as opened:
            # `zipfile` looks for an archive from the end of the file, NumPy from its beginning.
            if opened.read(2) != b"PK" or not zipfile.is_zipfile(opened):
                raise InputError(f"{path} must be an npz file, it is something else or cut off")
            size = opened.seek(0, 2)
            with zipfile.ZipFile(opened) as archive, warnings.catch_warnings():
                warnings.simplefilter("error")  # of headers that Python 2 wrote, or that are forged
                members = _members(path, archive, names)
                _check_sizes(path, members, size)
                arrays = {}
                for name, member in members.items():
                    arrays[name] = _array(path, name, archive, member)
                return arrays
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        raise InputError(f"{path} must be an npz file, it is damaged: {error!r}") from error


def write_npz(path: str | PathLike[str], arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Write named arrays, each before the next is computed.

    The bytes are those of `numpy.savez_compressed`, which has all arrays in memory at once.

    Raises `OSError` if the file cannot be written.
    """
    with open(path, "wb") as opened, zipfile.ZipFile(opened, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _members(
    path: str | PathLike[str], archive: zipfile.ZipFile, names: Collection[str] | None
) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if names is not None and name not in names:
            continue
        if name in found:
            raise InputError(f"{path} must hold an array once, it holds {name!r} again")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path} must be stored or deflated, the array {name!r} is packed in another way: "
                "save it with numpy.savez"
            )
        found[name] = member
    return found


def _check_sizes(path: str | PathLike[str], members: dict[str, zipfile.ZipInfo], size: int) -> None:
    for name, member in members.items():
        most = size if member.compress_type == zipfile.ZIP_STORED else _DEFLATE * size
        if member.file_size > most:
            raise InputError(
                f"{path} must be an npz file, it is damaged: the array {name!r} claims "
                f"{member.file_size:,} bytes in a file of {size:,}"
            )
    whole = sum(member.file_size for member in members.values())
    if whole > max(MOST_BYTES, MOST_TIMES * size):
        raise InputError(
            f"{path} must not unfold to more than {MOST_BYTES >> 30} GiB and {MOST_TIMES} times "
            f"its size, its arrays take {whole:,} bytes: save it with numpy.savez, unpacked"
        )


def _array(
    path: str | PathLike[str], name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> NDArray[Any]:
    form = np.lib.format
    with archive.open(member) as stream:
        version = form.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{path} must hold plain arrays, {name!r} is of the form {version}")
        head = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, _, dtype = head(stream)
        if dtype.hasobject:
            raise InputError(f"{path} must hold plain arrays, {name!r} is one of pickled objects")
        claimed = math.prod(shape) * dtype.itemsize
        there = member.file_size - stream.tell()
        if claimed != there or any(type(length) is not int or length < 0 for length in shape):
            raise InputError(
                f"{path} must be an npz file, it is damaged: the array {name!r} claims the shape "
                f"{shape} of {dtype}, {claimed:,} bytes, where there are {there:,}"
            )
    with archive.open(member) as stream:
        array: NDArray[Any] = form.read_array(stream, allow_pickle=False)
        stream.read(1)  # to the end, where the checksum is compared
    return array
