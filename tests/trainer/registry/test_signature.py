"""A file is accepted only as it was signed, by a key that is trusted; keys and signatures are those of minisign."""

from __future__ import annotations

import stat
from pathlib import Path

import minisign
import pytest

from trainer.errors import ModelError, StorageError
from trainer.registry.signature import make_key, public_key, sign, verify

DATA = b"\x00tar\n\nof a version\n"
COMMENT = "dokocos version 2026-11-23-1"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "signing.key"


def test_a_signed_file_is_accepted_with_its_comment(key: Path) -> None:
    trusted = make_key(key)
    signed = sign(DATA, COMMENT, key_file=key)
    assert verify(signed, [trusted], what="a.dokocos") == (COMMENT, DATA)


def test_the_same_data_have_the_same_signature(key: Path) -> None:
    make_key(key)
    assert sign(DATA, COMMENT, key_file=key) == sign(DATA, COMMENT, key_file=key)


def test_minisign_itself_accepts_it(key: Path) -> None:
    trusted = make_key(key)
    *lines, data = sign(DATA, COMMENT, key_file=key).split(b"\n", 4)
    signature = minisign.Signature.from_bytes(b"\n".join(lines))
    minisign.PublicKey.from_base64(trusted).verify(data, signature)
    assert signature.is_prehashed()
    assert signature.untrusted_comment.startswith(COMMENT)


@pytest.mark.parametrize("place", ["first", "middle", "last", "comment", "signature", "end", "more"])
def test_an_altered_file_is_refused(key: Path, place: str) -> None:
    trusted = make_key(key)
    signed = sign(DATA, COMMENT, key_file=key)
    start = len(signed) - len(DATA)
    places = {"first": start, "middle": start + 5, "last": -1, "comment": signed.index(b"2026", 120)}
    altered = bytearray(signed)
    if place in places:
        altered[places[place]] ^= 1
    elif place == "signature":
        at = signed.index(b"\n") + 60
        altered[at : at + 1] = b"A" if signed[at : at + 1] != b"A" else b"B"
    elif place == "end":
        del altered[-1]
    else:
        altered += b"more"
    with pytest.raises(ModelError, match="was altered"):
        verify(bytes(altered), [trusted], what="a.dokocos")


def test_another_key_is_refused_and_named(key: Path, tmp_path: Path) -> None:
    make_key(key)
    other = make_key(tmp_path / "other.key")
    signed = sign(DATA, COMMENT, key_file=key)
    with pytest.raises(ModelError, match=r"signed by key [0-9A-F]{16}, which exchange.trusted_keys does not have"):
        verify(signed, [other], what="a.dokocos")
    with pytest.raises(ModelError, match=r"exchange.trusted_keys is empty"):
        verify(signed, [], what="a.dokocos")


def test_a_key_that_claims_the_id_of_a_trusted_one_is_refused(key: Path) -> None:
    trusted = make_key(key)
    imposter = minisign.KeyPair.generate().secret_key
    imposter._keynum_sk.key_id[:] = minisign.PublicKey.from_base64(trusted)._keynum_pk.key_id
    signed = bytes(imposter.sign(DATA, trusted_comment=COMMENT)) + b"\n" + DATA
    with pytest.raises(ModelError, match="was altered"):
        verify(signed, [trusted], what="a.dokocos")


@pytest.mark.parametrize(
    "data", [b"", b"\n\n\n\n", DATA, b"untrusted comment: a\nb\ntrusted comment: c\nd\nrest", b"a" * 10**6]
)
def test_what_is_not_signed_is_refused(key: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match=r"a\.dokocos: is not signed"):
        verify(data, [make_key(key)], what="a.dokocos")


def test_any_of_several_trusted_keys_will_do(key: Path, tmp_path: Path) -> None:
    trusted = [make_key(tmp_path / "old.key"), make_key(key)]
    assert verify(sign(DATA, COMMENT, key_file=key), trusted, what="")[0] == COMMENT


def test_the_secret_half_is_for_its_user_alone_and_is_never_replaced(key: Path) -> None:
    trusted = make_key(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(StorageError, match="there is a key already"):
        make_key(key)
    assert public_key(key) == trusted


def test_a_secret_key_that_others_can_read_is_refused(key: Path) -> None:
    make_key(key)
    key.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        sign(DATA, COMMENT, key_file=key)


def test_a_password_is_read_from_a_file(key: Path, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    trusted = make_key(key, password_file=password)
    assert verify(sign(DATA, COMMENT, key_file=key, password_file=password), [trusted], what="")[0] == COMMENT
    with pytest.raises(StorageError, match=r"exchange\.password_file"):
        sign(DATA, COMMENT, key_file=key)
    password.write_text("wrong")
    with pytest.raises(StorageError, match="wrong password"):
        public_key(key, password_file=password)


@pytest.mark.parametrize("content", [None, b"", b"untrusted comment: a\nno base64", b"\xff\xfe"])
def test_a_missing_or_damaged_key_says_what_to_do(key: Path, content: bytes | None) -> None:
    if content is not None:
        key.parent.mkdir()
        key.write_bytes(content)
        key.chmod(0o600)
    expected = "python -m trainer key" if content is None else "is no secret key of minisign"
    with pytest.raises(StorageError, match=expected):
        sign(DATA, COMMENT, key_file=key)
