"""What a worker process gives up: system calls (seccomp), files (landlock), privileges, memory.

Standard library only: a worker, which runs in an isolated interpreter, loads this file by its path.
"""

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from typing import Any

with contextlib.suppress(ImportError):  # Windows, where this file is read but never run
    import resource

LIBC: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit architecture, column below
ALWAYS_ALLOWED = {  # what any Python code needs, and nothing that reaches beyond the process; -1: not on this machine
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "poll": (7, -1), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65),
    "writev": (20, 66), "select": (23, -1), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233),
    "dup": (32, 23), "nanosleep": (35, 101), "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160),
    "getcwd": (79, 17), "gettimeofday": (96, 169), "getrusage": (98, 165), "sysinfo": (99, 179), "times": (100, 153),
    "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "time": (201, -1), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "pselect6": (270, 72), "ppoll": (271, 73),
    "getrandom": (318, 278),
}  # fmt: skip
FILE_CALLS = {  # only where landlock or bubblewrap decides which paths exist
    "stat": (4, -1), "lstat": (6, -1), "access": (21, -1), "readlink": (89, -1), "getdents64": (217, 61),
    "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48), "statx": (332, 291),
    "faccessat2": (439, 439),
}  # fmt: skip
OPENAT, FCNTL, IOCTL, CLONE3, CAPSET = (257, 56), (72, 25), (16, 29), (435, 435), (126, 91)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last: __O_TMPFILE


def seccomp_available() -> bool:
    """Whether this kernel takes seccomp filters, on a machine whose system call numbers are known here."""
    allow = ctypes.c_uint32(0x7FFF0000)
    number = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
    return number is not None and LIBC.syscall(number, 2, 0, ctypes.byref(allow)) == 0  # SECCOMP_GET_ACTION_AVAIL


def landlock_abi() -> int:
    """The version of landlock this kernel offers; 0 for none."""
    return max(0, LIBC.syscall(444, None, ctypes.c_size_t(0), 1))


def seccomp_program(files: bool) -> bytes:
    """The filter as BPF: an allow-list by system call number; anything else fails with EPERM.

    Denied by absence: clone, fork, exec, kill, sockets, ptrace, prctl, prlimit, any write to a file, io_uring…
    """
    arch, column = MACHINES[platform.machine()]
    program: list[bytes] = []

    def emit(code: int, k: int, true: int = 0, false: int = 0) -> None:
        program.append(struct.pack("=HBBI", code, true, false, k))

    def answer(errno_: int | None) -> None:
        emit(0x06, 0x7FFF0000 if errno_ is None else 0x00050000 | errno_)

    def argument(index: int) -> None:  # the low half, little-endian: flags and commands are 32 bits
        emit(0x20, 16 + 8 * index)

    emit(0x20, 4)  # load the architecture
    emit(0x15, arch, 1, 0)
    emit(0x06, 0x80000000)  # kill: a foreign system call table
    emit(0x20, 0)  # load the number
    for numbers in [*ALWAYS_ALLOWED.values(), *(FILE_CALLS.values() if files else ())]:
        if numbers[column] >= 0:
            emit(0x15, numbers[column], 0, 1)
            answer(None)
    emit(0x15, IOCTL[column], 0, 1)
    answer(errno.ENOTTY)
    emit(0x15, CLONE3[column], 0, 1)
    answer(errno.ENOSYS)  # glibc then tries clone, which is refused
    if files:
        emit(0x15, OPENAT[column], 0, 4)
        argument(2)
        emit(0x45, WRITING, 0, 1)
        answer(errno.EACCES)
        answer(None)
    emit(0x15, FCNTL[column], 0, 6)
    argument(1)
    for command in (1, 2, 3):  # F_GETFD, F_SETFD, F_GETFL
        emit(0x15, command, 4 - command, 0)
    answer(errno.EPERM)
    answer(None)
    answer(errno.EPERM)
    return b"".join(program)


def check(status: int, what: str) -> int:
    """Raise OSError naming ``what`` when a libc call failed, so that a worker never runs half confined."""
    if status < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return status


class FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def apply_seccomp(program: bytes) -> None:
    """Filter the system calls of this process from here on; the filter cannot be taken off."""
    check(LIBC.prctl(22, 2, ctypes.byref(FilterProgram(len(program) // 8, program)), 0, 0), "seccomp")


def apply_landlock(readable: list[str]) -> None:
    """Allow only reading, and only below the paths ``readable``; no TCP, no sockets or signals to other processes."""
    abi = landlock_abi()
    files = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)  # how many rights this version knows
    attributes = struct.pack("=QQQ", (1 << files) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = check(LIBC.syscall(444, attributes, ctypes.c_size_t(size), 0), "landlock")
    for path in readable:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not there on this machine
        rights = 1 << 2 | (1 << 3 if os.path.isdir(path) else 0)  # read files, list folders
        check(LIBC.syscall(445, ruleset, 1, struct.pack("=Qi", rights, beneath), 0), "landlock")
        os.close(beneath)
    check(LIBC.syscall(446, ruleset, 0), "landlock")
    os.close(ruleset)


def confine(settings: dict[str, Any]) -> None:
    """Apply every layer but seccomp to this process; its children inherit them."""
    check(LIBC.prctl(1, signal.SIGKILL, 0, 0, 0), "parent death signal")
    check(LIBC.prctl(4, 0, 0, 0, 0), "dumpable")  # no process of the same user can read its memory
    check(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    memory = settings["memory_mb"] << 20
    for limit, value in (("AS", memory), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 64), ("MEMLOCK", 0), ("MSGQUEUE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    if "landlock" in settings["layers"]:
        apply_landlock(settings["readable"])
    column = MACHINES[platform.machine()][1]
    check(LIBC.syscall(CAPSET[column], struct.pack("=Ii", 0x20080522, 0), bytes(24)), "capabilities")


def confine_child(program: bytes, time_limit: float) -> None:
    """Apply the rest to a process forked for one call: end with its parent, a CPU limit, no process, the filter."""
    LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)
    seconds = int(time_limit) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    apply_seccomp(program)
