"""Signs a version's file, and checks who signed one: Ed25519, in minisign's format.

A signed file is minisign's signature of four lines, then what was signed. So `minisign` itself can check it too
(docs/TWO_MACHINES.md). A key has two halves: the secret one stays where versions are trained, in a file of mode 0600;
the public one is a line of 56 characters.

Source: https://jedisct1.github.io/minisign/#signature-format
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from minisign import Error, KeyPair, ParseError, PublicKey, SecretKey, Signature, VerifyError

from trainer.errors import ModelError, StorageError
from trainer.files import open_file, read_file, write_file

MAX_KEY_BYTES = 64 * 1024
KEY_ID = slice(2, 10)  # in a public key and in a signature, after the algorithm


def make_key(key_file: Path, *, password_file: Path | None = None) -> str:
    """Make a key, and write its secret half; returns the public half.

    Args:
        password_file: holds the password that encrypts the secret half; None: it is not encrypted.

    Raises:
        StorageError: there is a key already, or the file cannot be written.
    """
    if os.path.lexists(key_file):
        raise StorageError(f"{key_file}: there is a key already; move it away to make another one")
    made = KeyPair.generate()
    if password_file is not None:
        made.secret_key.encrypt(_read_password(password_file))

    def write(file: BinaryIO) -> None:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask
        file.write(bytes(made.secret_key) + b"\n")

    write_file(key_file, write)
    return str(made.public_key.to_base64(), "ascii")


def public_key(key_file: Path, *, password_file: Path | None = None) -> str:
    """The public half of a key. Raises StorageError as `sign`."""
    return str(_load_key(key_file, password_file).get_public_key().to_base64(), "ascii")


def key_id(text: str | bytes) -> str:
    """The name that a public key and its signatures share, as minisign shows it: 16 hexadecimal digits.

    Args:
        text: a public key, or the second line of a signature; valid.
    """
    return base64.b64decode(text)[KEY_ID][::-1].hex().upper()  # it is a number there, its lowest byte first


def sign(data: bytes, comment: str, *, key_file: Path, password_file: Path | None = None) -> bytes:
    """The data, with a signature of the data and the comment before them; always the same for the same arguments.

    Raises:
        StorageError: the key is missing or damaged, others can read it, or it needs another password.
    """
    key = _load_key(key_file, password_file)
    return bytes(key.sign(data, trusted_comment=comment, untrusted_comment=f"{comment}, signed")) + b"\n" + data


def verify(signed: bytes, trusted_keys: Sequence[str], *, what: str) -> tuple[str, bytes]:
    """The comment and the data of a signed file.

    Args:
        trusted_keys: public halves; one of them must have signed.
        what: name of the file, for messages.

    Raises:
        ModelError: it is not signed, was altered, or was signed by another key.
    """
    *lines, data = signed.split(b"\n", 4)
    try:
        signature = Signature.from_bytes(b"\n".join(lines))
    except ParseError as error:
        raise ModelError(
            f"{what}: is not signed ({error}); nothing was imported. `python -m trainer export V` writes a signed file"
        ) from error
    if not trusted_keys:
        raise ModelError(f"{what}: nothing was imported: exchange.trusted_keys is empty; put the public key there")
    signer = key_id(lines[1])
    matching = [key for key in trusted_keys if key_id(key) == signer]
    if not matching:
        raise ModelError(
            f"{what}: was signed by key {signer}, which exchange.trusted_keys does not have; nothing was imported. "
            "If that key is yours, put its public half there"
        )
    for key in matching:
        try:
            PublicKey.from_base64(key).verify(data, signature)
        except (VerifyError, ParseError):
            continue
        return signature.trusted_comment, data
    raise ModelError(f"{what}: was altered after it was signed, or is cut short; nothing was imported. Copy it again")


def _load_key(key_file: Path, password_file: Path | None) -> SecretKey:
    """The secret half, decrypted. Raises StorageError."""
    try:
        with open_file(key_file) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise StorageError(f"{key_file}: others can read it (mode {mode:04o}); run `chmod 600 {key_file}`")
            key = SecretKey.from_bytes(file.read(MAX_KEY_BYTES))
    except FileNotFoundError:
        raise StorageError(f"{key_file}: there is no key yet; make one with `python -m trainer key`") from None
    except OSError as error:
        raise StorageError(f"{key_file}: cannot be read: {error.strerror or error}") from error
    except ParseError as error:
        raise StorageError(f"{key_file}: is no secret key of minisign ({error}); restore it from a backup") from error
    if key.is_encrypted():
        if password_file is None:
            raise StorageError(
                f"{key_file}: needs a password; put it into a file, and name that in exchange.password_file"
            )
        try:
            key.decrypt(_read_password(password_file))
        except Error as error:
            raise StorageError(f"{key_file}: cannot be decrypted: {error}; see exchange.password_file") from error
    return key


def _read_password(file: Path) -> str:
    """The first line of a file. Raises StorageError."""
    try:
        password = read_file(file, max_bytes=MAX_KEY_BYTES).decode().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file}: cannot be read as a password: {error}") from error
    if not password:
        raise StorageError(f"{file}: is empty; put the password of the key into it")
    return password
