"""Arrays from files that may have been exchanged: nothing is unpacked before its size is known."""

from __future__ import annotations

import io
import resource
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.arrays import read_arrays

MIB = 1024 * 1024


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def archive(name: str, content: bytes, *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as written:
        written.writestr(name, content)
    return file.getvalue()


def header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_come_back_as_they_were_saved() -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["日本"]), "c": np.array(3), "d": np.zeros((0, 4))}
    found = read_arrays(npz(**arrays), max_bytes=MIB)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_small_archive_that_unpacks_to_gigabytes_is_refused_before() -> None:
    bomb = archive("a.npy", header((2 * 1024 * MIB // 16,), "<c16") + bytes(64 * MIB), compressed=True)
    assert len(bomb) < MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="more than"):
        read_arrays(bomb, max_bytes=MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # kB


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 2**62), (-1,), (10**30,)])
def test_a_header_that_claims_more_than_its_file_holds_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not readable as arrays"):
        read_arrays(archive("a.npy", header(shape) + bytes(64)), max_bytes=MIB)


def test_an_archive_that_lies_about_its_sizes_is_refused() -> None:
    honest = archive("a.npy", header((MIB,)) + bytes(4 * MIB), compressed=True)
    n_bytes = (len(header((MIB,))) + 4 * MIB).to_bytes(4, "little")
    for claimed in (64, len(header((MIB,))) + 64):
        lie = honest.replace(n_bytes, claimed.to_bytes(4, "little"))
        assert lie != honest
        with pytest.raises(ValueError, match="not readable as arrays"):
            read_arrays(lie, max_bytes=MIB)


def test_too_many_arrays_and_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="2000 arrays"):
        read_arrays(npz(**{f"a{n}": np.zeros(1) for n in range(2000)}), max_bytes=MIB)
    with pytest.raises(ValueError, match="not readable as arrays"):
        read_arrays(npz(a=np.array([{}], dtype=object)), max_bytes=MIB)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite_are_refused(value: float, dtype: type) -> None:
    with pytest.raises(ValueError, match="a has values that are not finite"):
        read_arrays(npz(a=np.array([0, value], dtype=dtype), b=np.zeros(2)), max_bytes=MIB)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_no_damage_raises_anything_else(data: bytes, at: int, value: int) -> None:
    whole = npz(a=np.zeros(3), b=np.array(["x"]))
    damaged = whole[: at % len(whole)] + bytes([value]) + whole[at % len(whole) + 1 :]
    for content in (data, whole[: at % len(whole)], damaged):
        try:
            read_arrays(content, max_bytes=MIB)
        except ValueError:
            continue
