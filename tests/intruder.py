"""A decoder that a photo has taken over: `python -m tests.intruder` is the real child, until it is asked for a photo.

Then it tries whatever it likes with what the "photo" names, and tells what it got. `--unconfined` leaves out the
confinement: what it gets then is what the confinement is for.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from trainer import confinement
from trainer.config import ImageSettings
from trainer.errors import ImageError
from trainer.photos import decode_child, decode_process, images
from trainer.photos.decode import Decoder

UNCONFINED = "--unconfined"
LACKS = "--lacks"  # and the name of a part of the confinement that this system shall not have
# What an error of the kernel says that refuses a call as such; any other tells that the call was looked at.
REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EMFILE})
# The system calls that Python has no function for.
X86 = platform.machine() == "x86_64"
CALLS: dict[str, tuple[int, tuple[int, ...]]] = {
    "ptrace": (101 if X86 else 117, (0x4206, -1, 0, 0)),  # PTRACE_SEIZE; -1 stands for the parent, here and below
    "process_vm_readv": (310 if X86 else 270, (-1, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311 if X86 else 271, (-1, 0, 0, 0, 0, 0)),
    "pidfd_open": (434, (-1, 0)),
    "pidfd_getfd": (438, (0, 0, 0)),
    "kcmp": (312 if X86 else 272, (-1, -1, 0, 0, 0)),
    "io_uring_setup": (425, (8, 0)),
    "bpf": (321 if X86 else 280, (0, 0, 0)),
    "userfaultfd": (323 if X86 else 282, (1,)),
    "perf_event_open": (298 if X86 else 241, (0, 0, -1, -1, 0)),
    "unshare a user namespace": (272 if X86 else 97, (0x10000000,)),
    "unshare mounts": (272 if X86 else 97, (0x00020000,)),
    "mount": (165 if X86 else 40, (0, 0, 0, 0, 0)),
    "open_tree": (428, (0, 0, 0)),
    "clone": (56 if X86 else 220, (int(signal.SIGCHLD), 0, 0, 0, 0)),
    "clone into a user namespace": (56 if X86 else 220, (0x10000000 | int(signal.SIGCHLD), 0, 0, 0, 0)),
    "clone3": (435, (0, 0)),
    "execveat": (322 if X86 else 281, (0, 0, 0, 0, 0)),
    "memfd_create": (319 if X86 else 279, (0, 0)),
    "keyctl": (250 if X86 else 219, (0, -3, 0)),
    "shmget": (29 if X86 else 194, (12345, 4096, 0)),
    "msgget": (68 if X86 else 186, (12345, 0)),
    "personality": (135 if X86 else 92, (0x0400000,)),  # READ_IMPLIES_EXEC
    "be dumpable again": (157 if X86 else 167, (4, 1, 0, 0, 0)),
    "a filter of its own": (317 if X86 else 277, (1, 0, 0)),
    "tgkill the parent": (234 if X86 else 131, (-1, -1, int(signal.SIGURG))),
    "queue a signal": (129 if X86 else 138, (-1, int(signal.SIGURG), 0)),
    "limit the parent": (302 if X86 else 261, (-1, 7, 0, 0)),
    "change its own limits": (302 if X86 else 261, (0, 7, 0, 0)),
    "openat2": (437, (0, 0, 0, 0)),
    "open_by_handle_at": (304 if X86 else 265, (0, 0, 0)),
    "landlock_create_ruleset": (444, (0, 0, 1)),
}
_LIBC = ctypes.CDLL(None, use_errno=True)


def attempts(about: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    """What is tried, by name; whatever does not raise OSError was got.

    Args:
        about: "token", "database", "data_dir" and "temporary": paths; "parent": a process id; "port": of a server on
            loopback; "secret": what only the parent's environment holds.
    """
    parent, token, data_dir = about["parent"], Path(about["token"]), Path(about["data_dir"])

    def connect(family: int, address: Any) -> None:
        with socket.socket(family) as connection:
            connection.settimeout(5)
            connection.connect(address)

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    def executable() -> None:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()

    def make_executable() -> None:
        with mmap.mmap(-1, 4096) as memory:
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            _raise_if(_LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), 7))

    def own_secret() -> None:
        if about["secret"] not in str(dict(os.environ)):
            raise PermissionError

    def other_descriptors() -> None:
        """More than its input, its answers and two ways to nowhere."""
        if sum(_is_open(number) for number in range(256)) <= 4:
            raise PermissionError

    return {
        "read the token": token.read_bytes,
        "read the database": Path(about["database"]).read_bytes,
        "read the parent's environment": Path(f"/proc/{parent}/environ").read_bytes,
        "read the parent's memory": lambda: os.close(os.open(f"/proc/{parent}/mem", os.O_RDONLY)),
        "the secret in its own environment": own_secret,
        "look into data_dir": lambda: list(data_dir.iterdir()),
        "see how long the token is": token.stat,
        "list the root": lambda: list(Path("/").iterdir()),
        "list the processes": lambda: list(Path("/proc").iterdir()),
        "its own status": Path("/proc/self/status").read_bytes,
        "write to data_dir": lambda: (data_dir / "intruder").write_bytes(b"!"),
        "write to the temporary folder": lambda: (Path(about["temporary"]) / "intruder").write_bytes(b"!"),
        "empty the token": lambda: os.truncate(token, 0),
        "let others read the token": lambda: token.chmod(0o644),
        "make a folder": lambda: (data_dir / "folder").mkdir(),
        "link to the token": lambda: (data_dir / "link").symlink_to(token),
        "rename the token": lambda: token.rename(token),
        "connect to loopback": lambda: connect(socket.AF_INET, ("127.0.0.1", about["port"])),
        "make a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "make a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "make a pair of sockets": lambda: socket.socketpair(),
        "make a pipe": lambda: os.pipe(),
        "copy a descriptor": lambda: os.close(os.dup(1)),
        "descriptors that are none of its business": other_descriptors,
        "signal the parent": lambda: os.kill(parent, signal.SIGURG),
        "slow the parent down": lambda: os.setpriority(os.PRIO_PROCESS, parent, 1),
        "fork": fork,
        "run a program": lambda: subprocess.run(["true"], check=True),  # noqa: S607
        "run executable memory": executable,
        "make memory executable": make_executable,
        **{name: _call(number, arguments, parent) for name, (number, arguments) in CALLS.items()},
    }


def _call(number: int, arguments: tuple[int, ...], parent: int) -> Callable[[], None]:
    def call() -> None:
        given = [ctypes.c_long(parent if argument == -1 else argument) for argument in arguments]
        result = _LIBC.syscall(ctypes.c_long(number), *given)
        if result == 0 and number in (56, 220):
            os._exit(0)  # the new process
        _raise_if(result)

    return call


def _raise_if(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")


def _is_open(number: int) -> bool:
    try:
        os.write(number, b"")
    except OSError as error:
        return error.errno != errno.EBADF or _reads_nothing(number)
    return True


def _reads_nothing(number: int) -> bool:
    try:
        os.read(number, 0)
    except OSError:
        return False
    return True


def raid(about: Mapping[str, Any]) -> tuple[list[str], int]:
    """What was got, and how much was tried."""
    tries, got = attempts(about), []
    for name, attempt in tries.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            if error.errno in REFUSED:
                continue
        got.append(name)
    return got, len(tries)


@contextmanager
def taken_over(*options: str, limits: ImageSettings | None = None) -> Iterator[Decoder]:
    """A decoder whose child is an intruder."""
    command = (sys.executable, "-m", "tests.intruder", *options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_process, "COMMAND", command)
        with Decoder(limits or ImageSettings(), n_children=1) as decoder:
            yield decoder


def ask(decoder: Decoder, about: Mapping[str, Any]) -> tuple[list[str], int]:
    """What an intruder got, and how much it tried."""
    try:
        decoder.prepare(json.dumps(about).encode())
    except ImageError as told:
        got, n_tried = json.loads(str(told))
        return got, n_tried
    raise AssertionError("the intruder told nothing")


def _prepare(data: bytes, *_: object, **__: object) -> NoReturn:
    raise ImageError(json.dumps(raid(json.loads(data))), reason="damaged")


def _lack() -> NoReturn:
    raise OSError(errno.ENOSYS, "not here")


if __name__ == "__main__":
    setattr(images, "prepare", _prepare)  # noqa: B010 - the types are those of the real one
    if UNCONFINED in sys.argv:
        setattr(decode_child, "confine", lambda **_: ())  # noqa: B010
    if LACKS in sys.argv:
        setattr(confinement, f"_forbid_by_{sys.argv[-1]}", _lack)
    decode_child._main()
