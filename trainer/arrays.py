"""Reads .npz files that are in memory, with their sizes checked before anything is unpacked."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

MAX_ARRAYS = 1000


def read_arrays(data: bytes, *, max_bytes: int) -> Arrays:
    """Read the arrays of an .npz file.

    Args:
        data: the file's content.
        max_bytes: of all arrays together, unpacked.

    Raises:
        ValueError: it is no such file, is damaged, unpacks to more, or has numbers that are not finite.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > max_bytes or len(members) > MAX_ARRAYS:
                raise ValueError(f"{len(members)} arrays of {size:,} bytes, more than {max_bytes:,}")
            for member in members:
                with archive.open(member) as file:  # which reads no more than `file_size`
                    _check_header(file, member.file_size)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they like about a damaged file
        raise ValueError(f"not readable as arrays: {type(error).__name__}: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
    return arrays


def _check_header(file: Any, size: int) -> None:
    """Raise ValueError if an array's header asks for more memory than its data take: NumPy reserves it at once."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of {dtype} and {shape}, in {size:,} bytes")
