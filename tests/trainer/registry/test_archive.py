"""A version's archive has one form: whatever else a file holds is refused before anything of it is used."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import ModelError
from trainer.registry.archive import pack, unpack

NAME = "2026-11-23-1"
FILES = {"version.json": b"{}", "head.npz": b"\x00" * 700, "report.html": b""}


def tar(*members: tuple[str, bytes], change: Callable[[tarfile.TarInfo], object] = lambda _: None) -> bytes:
    """An archive as `pack` makes it but for `change`, which is called for each member."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o600, len(content)
            change(info)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def set_to(**changes: object) -> Callable[[tarfile.TarInfo], object]:
    return lambda info: vars_of(info, changes)


def vars_of(info: tarfile.TarInfo, changes: dict[str, object]) -> None:
    for name, value in changes.items():
        setattr(info, name, value)


def test_files_come_back_as_they_were_packed() -> None:
    assert unpack(pack(NAME, FILES), FILES.keys(), what="") == (NAME, FILES)


def test_the_same_files_give_the_same_bytes_that_tar_can_read() -> None:
    packed = pack(NAME, FILES)
    assert packed == pack(NAME, dict(reversed(FILES.items())))
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert [member.name for member in archive] == [f"{NAME}/{name}" for name in sorted(FILES)]


def test_not_every_file_must_be_there() -> None:
    assert unpack(pack(NAME, {"head.npz": b"1"}), FILES.keys(), what="") == (NAME, {"head.npz": b"1"})


HEAD = (f"{NAME}/head.npz", b"content")
HOSTILE = {
    "a link": tar(HEAD, change=set_to(type=tarfile.SYMTYPE, linkname="/etc/passwd", size=0)),
    "a hard link": tar(HEAD, change=set_to(type=tarfile.LNKTYPE, linkname="version.json", size=0)),
    "a pipe": tar(HEAD, change=set_to(type=tarfile.FIFOTYPE, size=0)),
    "a device": tar(HEAD, change=set_to(type=tarfile.CHRTYPE, size=0)),
    "a folder": tar(HEAD, change=set_to(type=tarfile.DIRTYPE, size=0)),
    "a name with ..": tar((f"{NAME}/../head.npz", b"")),
    "a name above": tar(("../head.npz", b"")),
    "an absolute name": tar(("/head.npz", b"")),
    "a name deeper": tar((f"{NAME}/deep/head.npz", b"")),
    "another name": tar((f"{NAME}/sums", b"")),
    "no folder": tar(("head.npz", b"")),
    "another folder": tar(("2026-11-23/head.npz", b"")),
    "a huge number": tar((f"2026-11-23-{'9' * 20}/head.npz", b"")),
    "two folders": tar(HEAD, ("2026-11-23-2/version.json", b"")),
    "a file twice": tar(HEAD, HEAD),
    "another order": tar((f"{NAME}/version.json", b""), HEAD),
    "an owner": tar(HEAD, change=set_to(uid=1000)),
    "an owner's name": tar(HEAD, change=set_to(uname="root")),
    "a time": tar(HEAD, change=set_to(mtime=1)),
    "rights": tar(HEAD, change=set_to(mode=0o4777)),
    "something behind": tar(HEAD) + b"more",
    "a second archive": tar(HEAD) + tar((f"{NAME}/version.json", b"")),
    "a long name": tar((f"{NAME}/{'a' * 300}", b"")),
    "nothing": b"",
    "no member": tar(),
    "no archive": b"PK\x03\x04" + bytes(2000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_is_not_as_we_write_it_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match=r"^a\.dokocos: is not the archive of a version"):
        unpack(HOSTILE[kind], FILES.keys(), what="a.dokocos")


def test_a_sparse_file_of_terabytes_is_refused_before_it_takes_memory() -> None:
    def sparse(info: tarfile.TarInfo) -> None:
        info.size = 0
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": str(2**42), "GNU.sparse.map": f"{2**42},0"}

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(HEAD[0])
        sparse(info)
        archive.addfile(info)
    with pytest.raises(ModelError, match="is not the archive of a version"):
        unpack(file.getvalue(), FILES.keys(), what="a.dokocos")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_is_refused(mode: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo(HEAD[0])
        info.size = 10**7
        archive.addfile(info, io.BytesIO(bytes(10**7)))
    with pytest.raises(ModelError, match="is not the archive of a version"):
        unpack(file.getvalue(), FILES.keys(), what="a.dokocos")


@given(st.integers(0, 10_239), st.integers(0, 255), st.booleans())
def test_any_change_is_refused_or_one_of_content(at: int, value: int, cut: bool) -> None:
    packed = pack(NAME, FILES)
    changed = packed[:at] if cut else packed[:at] + bytes([value]) + packed[at + 1 :]
    try:
        name, files = unpack(changed, FILES.keys(), what="")
    except ModelError:
        return
    assert pack(name, files) == changed
