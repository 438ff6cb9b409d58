"""The process inside the sandbox: confines itself, then answers calls. Standard library only; see sandbox.py.

Started as ``python -I _worker.py SETTINGS`` with requests on stdin and replies on stdout, so that nothing of the
caller's memory (secrets, models, threads) is ever in it. With ``fork`` set it stays outside seccomp and forks one
confined child for each call; else it confines itself once and answers many.
"""

import ast
import builtins
import contextlib
import ctypes
import errno
import gc
import importlib
import io
import json
import os
import platform
import select
import signal
import struct
import sys
import time
from typing import Any

with contextlib.suppress(ImportError):  # Windows, where this file is read but never run
    import resource

# Imported before the door closes: with seccomp alone no file can be opened later, so only these can be imported.
PRELOAD = """
    array base64 bisect calendar cmath collections.abc copy csv dataclasses datetime decimal difflib enum fractions
    functools hashlib heapq html itertools json math numbers operator pprint random re statistics string struct
    textwrap time typing unicodedata zlib
"""

MAX_VALUE = 100_000  # characters of a result's JSON
MAX_STDOUT = 10_000  # characters
MAX_DEPTH = 32  # nested lists and dicts
MAX_DIGITS = 4300  # of an integer; CPython's own limit for turning one into text
MAX_REPLY = 2 * MAX_VALUE + 12 * MAX_STDOUT  # bytes of a whole reply: JSON escapes a character to twelve at most

# --- confinement ---------------------------------------------------------------------------------------------------

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # audit architecture, column below
_PLAIN = {  # what any Python code needs, and nothing that reaches beyond the process; -1: not on this machine
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
_FILES = {  # only where landlock or bubblewrap decides which paths exist
    "stat": (4, -1), "lstat": (6, -1), "access": (21, -1), "readlink": (89, -1), "getdents64": (217, 61),
    "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48), "statx": (332, 291),
    "faccessat2": (439, 439),
}  # fmt: skip
_OPENAT, _FCNTL, _IOCTL, _CLONE3, _CAPSET = (257, 56), (72, 25), (16, 29), (435, 435), (126, 91)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last: __O_TMPFILE


def seccomp_available() -> bool:
    """Whether this kernel takes seccomp filters and we know its system call numbers."""
    allow = ctypes.c_uint32(0x7FFF0000)
    number = {"x86_64": 317, "aarch64": 277}.get(platform.machine())
    return number is not None and _libc.syscall(number, 2, 0, ctypes.byref(allow)) == 0  # SECCOMP_GET_ACTION_AVAIL


def landlock_abi() -> int:
    """The version of landlock this kernel offers; 0 for none."""
    return max(0, _libc.syscall(444, None, ctypes.c_size_t(0), 1))


def seccomp_program(files: bool) -> bytes:
    """The filter as BPF: an allow-list by system call number; anything else fails with EPERM.

    Denied by absence: clone, fork, exec, kill, sockets, ptrace, prctl, prlimit, any write to a file, io_uring…
    """
    arch, column = _MACHINES[platform.machine()]
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
    for numbers in [*_PLAIN.values(), *(_FILES.values() if files else ())]:
        if numbers[column] >= 0:
            emit(0x15, numbers[column], 0, 1)
            answer(None)
    emit(0x15, _IOCTL[column], 0, 1)
    answer(errno.ENOTTY)
    emit(0x15, _CLONE3[column], 0, 1)
    answer(errno.ENOSYS)  # glibc then tries clone, which is refused
    if files:
        emit(0x15, _OPENAT[column], 0, 4)
        argument(2)
        emit(0x45, _WRITING, 0, 1)
        answer(errno.EACCES)
        answer(None)
    emit(0x15, _FCNTL[column], 0, 6)
    argument(1)
    for command in (1, 2, 3):  # F_GETFD, F_SETFD, F_GETFL
        emit(0x15, command, 4 - command, 0)
    answer(errno.EPERM)
    answer(None)
    answer(errno.EPERM)
    return b"".join(program)


def check(status: int, what: str) -> int:
    """Raise OSError naming ``what`` when a libc call failed: confinement fails closed."""
    if status < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return status


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def apply_seccomp(program: bytes) -> None:
    """Put the filter on this process, for good."""
    check(_libc.prctl(22, 2, ctypes.byref(_Program(len(program) // 8, program)), 0, 0), "seccomp")


def apply_landlock(readable: list[str]) -> None:
    """Leave of the file system only what is below ``readable``, to read; no TCP, no foreign sockets or signals."""
    abi = landlock_abi()
    files = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)  # how many rights this version knows
    attributes = struct.pack("=QQQ", (1 << files) - 1, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = check(_libc.syscall(444, attributes, ctypes.c_size_t(size), 0), "landlock")
    for path in readable:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # not there on this machine
        rights = 1 << 2 | (1 << 3 if os.path.isdir(path) else 0)  # read files, list folders
        check(_libc.syscall(445, ruleset, 1, struct.pack("=Qi", rights, beneath), 0), "landlock")
        os.close(beneath)
    check(_libc.syscall(446, ruleset, 0), "landlock")
    os.close(ruleset)


def confine(settings: dict[str, Any]) -> None:
    """Everything but seccomp: what a process can give up once and its children inherit."""
    check(_libc.prctl(1, signal.SIGKILL, 0, 0, 0), "parent death signal")
    check(_libc.prctl(4, 0, 0, 0, 0), "dumpable")  # nobody of our user reads our memory
    check(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    memory = settings["memory_mb"] << 20
    for limit, value in (("AS", memory), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 64), ("MEMLOCK", 0), ("MSGQUEUE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    if "landlock" in settings["layers"]:
        apply_landlock(settings["readable"])
    column = _MACHINES[platform.machine()][1]
    check(_libc.syscall(_CAPSET[column], struct.pack("=Ii", 0x20080522, 0), bytes(24)), "capabilities")


# --- one call ------------------------------------------------------------------------------------------------------


class Capped(io.TextIOBase):
    """stdout and stderr of a call: the first MAX_STDOUT characters, the rest is dropped."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.room = MAX_STDOUT

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.room > 0:
            self.parts.append(text[: self.room])
            self.room -= len(self.parts[-1])
        return len(text)

    def take(self) -> str:
        text, self.parts, self.room = "".join(self.parts), [], MAX_STDOUT
        return text


_encode = json.JSONEncoder(allow_nan=False).iterencode  # bound now: a call may replace json's own
_float, _str, _add, _abs = float.__float__, str.__str__, int.__add__, int.__abs__


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value as exact JSON types, subclasses undone; ValueError saying what does not fit."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _str(value)
    if isinstance(value, int):
        if _abs(value) >> 14_284:  # about 4,300 digits
            raise ValueError(f"the result holds an integer of more than {MAX_DIGITS} digits")
        return _add(value, 0)
    if isinstance(value, float):
        if value - value != 0.0:
            raise ValueError(f"the result holds {_float(value)!r}, which is not a finite number")
        return _float(value)
    if not isinstance(value, list | tuple | dict):
        raise ValueError(f"the result is of type {type(value).__name__}: it must be JSON (number, text, list, dict)")
    if len(value) > MAX_VALUE // 2:  # each item takes two characters at least
        raise ValueError(f"the result is too large: {len(value):,} items")
    if depth == 0:
        raise ValueError(f"the result is nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float | bool | None):
                raise ValueError(f"the result has a key of type {type(key).__name__}: keys must be text")
        return {_str(k) if isinstance(k, str) else repr(k): plain(v, depth - 1) for k, v in value.items()}
    return [plain(v, depth - 1) for v in value]


def one_line(error: BaseException) -> str:
    """``TypeError: what it says (line 3)`` on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(":").removesuffix(": ")
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<code>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{text} (line {line})" if line else text


def execute(source: bytes, job: dict[str, Any], code: Any, output: Capped) -> bytes:
    """Run one job and give the reply's JSON. Catches all that the job raises."""
    value, error = "null", None
    try:
        name = job["name"]
        space: dict[str, Any] = {"__name__": "__main__" if name is None else "tool", "__builtins__": builtins}
        if code is None:
            text = source.decode("utf-8", "surrogatepass")
            code = compile(text, "<code>" if name is None else "<tool>", "exec")
        exec(code, space)
        if name is None and "result" not in space:
            raise NameError("the code did not set `result`")
        if name is not None and name not in space:
            raise NameError(f"the source defines no function {name!r}")
        value = "".join(_encode(plain(space["result"] if name is None else space[name](**job["arguments"])), True))
        if len(value) > MAX_VALUE:
            raise ValueError(f"the result is too large: {len(value):,} characters of JSON, at most {MAX_VALUE:,}")
    except BaseException as e:  # SystemExit and KeyboardInterrupt of the job are the job's failures
        value, error = "null", one_line(e)
    rest = "".join(_encode({"error": error, "stdout": output.take()}, True))
    return f'{{"value": {value}, {rest[1:]}'.encode()


# --- frames: length (4 bytes, of what follows), nonce (8 bytes), kind (1 byte), body --------------------------------
# A job's body: length of its source (4 bytes), the source, JSON of its name and arguments. A reply's: JSON.


def read_exactly(fd: int, n: int) -> bytes | None:
    """n bytes, or None at the end of the stream."""
    parts = bytearray()
    while len(parts) < n:
        part = os.read(fd, n - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe until all is written."""
    while data:
        data = data[os.write(fd, data) :]


def frame(nonce: bytes, kind: bytes, body: bytes) -> bytes:
    """One message. Requests: q a job, k stop it. Replies: r done, R done and replace me, t stopped, s our failure."""
    return struct.pack("=I", 9 + len(body)) + nonce + kind + body


def read_request(fd: int) -> tuple[bytes, bytes, dict[str, Any]] | None:
    """The next request's nonce, source and job (empty in one to stop), or None when the caller is gone."""
    head = read_exactly(fd, 4)
    body = head and read_exactly(fd, struct.unpack("=I", head)[0])
    if not body:
        return None
    if body[8:9] == b"k":
        return body[:8], b"", {}
    source = 13 + struct.unpack_from("=I", body, 9)[0]
    return body[:8], body[13:source], json.loads(body[source:])


# --- many calls in one confined process ----------------------------------------------------------------------------


def imported(source: str) -> list[str]:
    """Modules that a source imports anywhere, by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return sorted(names)


def watched(modules: list[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """What a call could poison, as (live names, a copy of them): those of the modules and of their classes."""
    spaces = [vars(module) for module in modules]
    for module in modules:
        # 1 << 8: a class of C that cannot be changed
        kinds = [v for v in vars(module).values() if isinstance(v, type) and not v.__flags__ & 1 << 8]
        spaces += [vars(kind) for kind in kinds if kind.__module__ == module.__name__]
    return [(space, dict(space)) for space in spaces]


def settings_of_interpreter() -> tuple[Any, ...]:
    """The same for what is not a name in a module."""
    return sys.getrecursionlimit(), sys.get_int_max_str_digits(), gc.isenabled(), sys.gettrace(), sys.getprofile()


def intact(spaces: list[tuple[Any, dict[str, Any]]]) -> bool:
    """Whether nothing was poisoned; a submodule that came to hang on its package by an import is harmless."""
    for live, copy in spaces:
        if live != copy:
            new = {k: v for k, v in live.items() if k not in copy and isinstance(v, type(sys))}
            if live != copy | new:
                return False
            copy.update(new)
    return True


def serve(requests: int, replies: int, output: Capped) -> None:
    """Answer calls of declared tools until the caller closes the pipe.

    The tool source runs afresh for each call in a new namespace. A call that changed a module, or ran out of
    memory, is answered and its worker replaced.
    """
    known: dict[bytes, tuple[Any, list[tuple[Any, dict[str, Any]]]]] = {}  # source -> code, what it could poison
    settings = settings_of_interpreter()
    while (request := read_request(requests)) is not None:
        nonce, source, job = request
        code, spaces = known.get(source, (None, []))
        if code is None:
            try:
                text = source.decode()
                code = compile(text, "<tool>", "exec")
                modules = [builtins, sys, sys.modules[__name__]]
                for name in imported(text):
                    try:
                        modules.append(importlib.import_module(name))
                    except Exception:  # the call itself will say so
                        continue
                spaces = watched(modules)
                if len(known) == 256:
                    known.clear()
                known[source] = code, spaces
            except Exception:  # a syntax error, say: the call itself will say so
                code = None
        body = execute(source, job, code, output)
        clean = code is not None and settings == settings_of_interpreter() and intact(spaces)
        clean = clean and b'"error": "MemoryError' not in body
        write_all(replies, frame(nonce, b"r" if clean else b"R", body))


# --- one child a call ----------------------------------------------------------------------------------------------


def run_child(
    source: bytes, job: dict[str, Any], reply: int, null: int, program: bytes, limit: float, output: Capped
) -> None:
    """In the forked child: keep one pipe, close the door, run, answer, end. Never returns."""
    status = 1
    try:
        _libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        os.dup2(reply, 3)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(4, 64)
        seconds = int(limit) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        apply_seccomp(program)
        body = execute(source, job, None, output)
        write_all(3, struct.pack("=I", len(body)) + body)
        status = 0
    finally:
        os._exit(status)


def collect(reply: int, pid: int, requests: int) -> tuple[bytes, bytes]:
    """Read a child's reply until it closes the pipe or the caller says stop, then end the child: (kind, body).

    The reply counts only as one exact frame followed by the end, so that what a hostile call writes to the pipe
    spoils its own answer and nothing else.
    """
    data = bytearray()
    ended = False
    while not ended and len(data) <= MAX_REPLY:
        ready = select.select([reply, requests], [], [])[0]
        if requests in ready:
            break
        part = os.read(reply, 65_536)
        data += part
        ended = not part
    whole = ended and len(data) >= 4 and struct.unpack_from("=I", data)[0] == len(data) - 4
    status = None
    if ended and not whole:  # it is dying, or lives on with its pipe closed
        grace = time.monotonic() + 0.1
        while status is None and time.monotonic() < grace:
            done, code = os.waitpid(pid, os.WNOHANG)
            if done:
                status = code
            else:
                time.sleep(0.001)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if whole:
        return b"r", bytes(data[4:])
    if not ended and len(data) <= MAX_REPLY:
        return b"t", b""
    if not ended:
        text = "the code flooded its reply"
    elif status is None or data:
        text = "the code broke the channel its reply goes through"
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return b"s", b"the child was killed from outside (out of memory on this machine?)"
    elif os.WIFSIGNALED(status):
        text = f"the code crashed its process ({signal.Signals(os.WTERMSIG(status)).name})"
    else:
        text = f"the code ended its process (exit code {os.WEXITSTATUS(status)})"
    return b"r", json.dumps({"value": None, "error": text, "stdout": ""}).encode()


def serve_forks(requests: int, replies: int, null: int, program: bytes, limit: float, output: Capped) -> None:
    """Fork one confined child for each call until the caller closes the pipe."""
    while (request := read_request(requests)) is not None:
        nonce, source, job = request
        if not job:
            continue  # it came too late to stop anything
        reply, write = os.pipe()
        try:
            pid = os.fork()
        except OSError as e:
            os.close(write)
            kind, body = b"s", f"cannot fork: {e.strerror}".encode()
        else:
            if pid == 0:
                run_child(source, job, write, null, program, limit, output)
            os.close(write)
            kind, body = collect(reply, pid, requests)
        os.close(reply)
        write_all(replies, frame(nonce, kind, body))


def main() -> None:
    """Confine, say so on the reply pipe (``ready`` or why not), serve."""
    settings = json.loads(sys.argv[1])
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        for name in PRELOAD.split():
            importlib.import_module(name)
        confine(settings)
        program = seccomp_program(files=bool({"landlock", "bubblewrap"} & set(settings["layers"])))
        if not settings["fork"]:
            apply_seccomp(program)
    except Exception as e:
        write_all(replies, frame(bytes(8), b"s", f"{type(e).__name__}: {e}".encode()))
        return
    gc.freeze()  # what is here now is never garbage
    output = Capped()
    sys.stdout = sys.stderr = output
    write_all(replies, frame(bytes(8), b"r", b"ready"))
    if settings["fork"]:
        serve_forks(requests, replies, null, program, settings["time_limit"], output)
    else:
        serve(requests, replies, output)


if __name__ == "__main__":
    main()
