"""Confines a process before it handles untrusted bytes, with Linux's seccomp and Landlock.

If a malicious photo takes control of such a process, it cannot open files, use the network, or signal other processes;
it can only read its input, write its answers, compute, and exit. Two independent mechanisms enforce this: seccomp
allows only the few system calls that decoding needs; Landlock forbids the file system, the network and signals. Both
also apply to root, and cannot be undone.

Sources: https://docs.kernel.org/userspace-api/seccomp_filter.html, https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import NamedTuple

# From <linux/prctl.h>, <linux/seccomp.h>, <linux/audit.h>, <linux/bpf_common.h>, <linux/sched.h>, <sys/mman.h>.
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, AND, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data
X32_BIT = 0x40000000
PROT_EXEC = 4
CLONE_THREAD = 0x00010000
CLONE_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CLONE_NEWCGROUP, ... CLONE_NEWNET
# From <linux/landlock.h>, by the version of its interface that brought them: bits of files, of the network, of scopes.
# Versions after 7 have more; seccomp forbids those as well.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446  # the same on all processors
LANDLOCK_GET_VERSION = 1
LANDLOCK_FILES = {1: 0x1FFF, 2: 0x2000, 3: 0x4000, 5: 0x8000}
LANDLOCK_NETWORK = {4: 0x3}
LANDLOCK_SCOPES = {6: 0x3}

MAX_DESCRIPTORS = 65536  # this process inherits only a few


class _Processor(NamedTuple):
    """The numbers of the system calls on a processor, by name."""

    audit_number: int
    seccomp: int
    calls: dict[str, int]


# For decoding on one or several threads, Python's runtime, the child's alarm, and the exit.
_PROCESSORS = {
    "x86_64": _Processor(
        0xC000003E,
        317,
        {
            "read": 0, "write": 1, "close": 3, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
            "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25, "madvise": 28, "setitimer": 38,
            "getpid": 39, "clone": 56, "exit": 60, "gettimeofday": 96, "sigaltstack": 131, "gettid": 186, "futex": 202,
            "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "tgkill": 234,
            "set_robust_list": 273, "getrandom": 318, "rseq": 334, "clone3": 435,
        },
    ),
    "aarch64": _Processor(
        0xC00000B7,
        277,
        {
            "close": 57, "read": 63, "write": 64, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99,
            "setitimer": 103, "clock_gettime": 113, "sched_getaffinity": 123, "sched_yield": 124,
            "restart_syscall": 128, "tgkill": 131, "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135,
            "rt_sigreturn": 139, "gettimeofday": 169, "getpid": 172, "gettid": 178, "brk": 214, "munmap": 215,
            "mremap": 216, "clone": 220, "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278, "rseq": 293,
            "clone3": 435,
        },
    ),
}  # fmt: skip

_LIBC = ctypes.CDLL(None, use_errno=True)


def hide_memory() -> None:
    """Hide memory, environment and open files from other processes of the same user, and disable core dumps."""
    if sys.platform == "linux":
        _check(_LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))


def confine(*, memory_bytes: int, keep: Collection[int]) -> tuple[str, ...]:
    """Drop, irrevocably, all rights that decoding does not need; call it while there is one thread.

    Afterwards no new modules can be imported.

    Args:
        memory_bytes: the limit on heap and private mappings; only Linux enforces it.
        keep: file descriptors that stay open.

    Returns:
        the protections that this system lacks, each in a few words; empty if all are active.
    """
    os.chdir("/")
    _close_all_but(keep)
    missing: list[str] = []
    if sys.platform == "linux":
        hide_memory()
        _try("no new privileges", lambda: _check(_LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)), missing)
        _try("Landlock", _forbid_by_landlock, missing)
        # RLIMIT_DATA includes private mappings since Linux 4.7, but not shared libraries.
        _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory_bytes if allowed == resource.RLIM_INFINITY else min(memory_bytes, allowed)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # Not RLIMIT_NPROC: it also counts threads, and libde265 decodes HEIC in one.
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(kind, (0, 0))
    if sys.platform == "linux":
        _try("seccomp", _forbid_by_seccomp, missing)  # last: it forbids the calls above
    else:
        missing.append(f"Landlock and seccomp ({platform.system()} has neither)")
    return tuple(missing)


def _try(name: str, step: Callable[[], object], missing: list[str]) -> None:
    try:
        step()
    except OSError as error:
        missing.append(f"{name} ({error.strerror})")


def _close_all_but(keep: Collection[int]) -> None:
    ends = [-1, *sorted(keep), MAX_DESCRIPTORS]
    for before, after in pairwise(ends):
        os.closerange(before + 1, after)


def _forbid_by_landlock() -> None:
    """Activate Landlock without rules, so that everything it handles is forbidden. Raises OSError."""
    version = _check(_LIBC.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_GET_VERSION))
    handled = [
        sum(bits for since, bits in table.items() if since <= version)
        for table in (LANDLOCK_FILES, LANDLOCK_NETWORK, LANDLOCK_SCOPES)
    ]
    attributes = struct.pack("=QQQ", *handled)  # an older kernel accepts a longer structure that ends in zeros
    n_bytes = ctypes.c_size_t(len(attributes))
    ruleset = _check(_LIBC.syscall(LANDLOCK_CREATE_RULESET, ctypes.c_char_p(attributes), n_bytes, 0))
    try:
        _check(_LIBC.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _forbid_by_seccomp() -> None:
    """Activate seccomp: only the calls of `_program` work afterwards. Raises OSError."""
    processor = _PROCESSORS.get(platform.machine())
    if processor is None or sys.byteorder != "little" or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"its calls on {platform.machine()} are not known here")
    program = _program(processor)
    n_instructions = len(program) // 8
    kept = ctypes.create_string_buffer(program, len(program))
    about = struct.pack("=HxxxxxxQ", n_instructions, ctypes.addressof(kept))  # struct sock_fprog
    _check(_LIBC.syscall(processor.seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ctypes.c_char_p(about)))


def _program(processor: _Processor) -> bytes:
    """The seccomp filter: system call -> allowed or an error; instructions of 8 bytes.

    Some calls have a condition on an argument: no memory may become executable, clone may create only threads, and
    signals may be sent only to this process (by `abort`).
    """
    calls = dict(processor.calls)
    clone3 = calls.pop("clone3")
    conditions = {  # call -> argument, mask, and the required masked value
        calls.pop("mmap"): (2, PROT_EXEC, 0),
        calls.pop("mprotect"): (2, PROT_EXEC, 0),
        calls.pop("clone"): (0, CLONE_THREAD | CLONE_NEW_NAMESPACES, CLONE_THREAD),
        calls.pop("tgkill"): (0, 0xFFFFFFFF, os.getpid()),
    }
    program = [
        _instruction(LOAD, AT_ARCHITECTURE),
        _instruction(JUMP_IF_EQUAL, processor.audit_number, if_true=1),
        _instruction(RETURN, RET_KILL_PROCESS),  # another ABI, where the numbers have other meanings
        _instruction(LOAD, AT_NUMBER),
        _instruction(JUMP_IF_AT_LEAST, X32_BIT, if_false=1),
        _instruction(RETURN, RET_KILL_PROCESS),
    ]
    for number in calls.values():
        program += [_instruction(JUMP_IF_EQUAL, number, if_false=1), _instruction(RETURN, RET_ALLOW)]
    for number, (argument, mask, wanted) in conditions.items():
        program += [
            _instruction(JUMP_IF_EQUAL, number, if_false=5),
            _instruction(LOAD, AT_ARGUMENTS + 8 * argument),  # the lower half
            _instruction(AND, mask),
            _instruction(JUMP_IF_EQUAL, wanted, if_false=1),
            _instruction(RETURN, RET_ALLOW),
            _instruction(RETURN, RET_ERRNO | errno.EPERM),
        ]
    program += [
        # A filter cannot read its flags, which are in memory; the C library falls back to `clone`.
        _instruction(JUMP_IF_EQUAL, clone3, if_false=1),
        _instruction(RETURN, RET_ERRNO | errno.ENOSYS),
        _instruction(RETURN, RET_ERRNO | errno.EPERM),
    ]
    return b"".join(program)


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter; jumps are relative to the next instruction."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _check(result: int) -> int:
    """The result of a system call. Raises OSError if it failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
