"""The program that a worker process runs: confines itself, then answers calls. Standard library only.

Started as ``python -I worker.py SETTINGS`` with requests on stdin and replies on stdout, so that nothing of the
caller's memory (secrets, models, threads) is ever in it. With the setting ``fork`` it stays outside seccomp and forks
a confined child for each call; without, it confines itself for good and answers many calls. ``process.py`` is the
caller's side.
"""

import ast
import builtins
import functools
import gc
import importlib
import importlib.util
import io
import json
import os
import select
import signal
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any

# Imported before the process is confined: with seccomp alone no file can be opened later, so only these are importable.
PRELOAD = """
    array base64 bisect calendar cmath collections.abc copy csv dataclasses datetime decimal difflib enum fractions
    functools hashlib heapq html itertools json math numbers operator pprint random re statistics string struct
    textwrap time typing unicodedata zlib
"""


def load_beside(name: str) -> Any:
    """The module beside this file, which an isolated interpreter (-I) does not find by name."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


values = load_beside("values")
MAX_VALUE: int = values.MAX_VALUE
MAX_DEPTH: int = values.MAX_DEPTH
MAX_STDOUT = 10_000  # characters
MAX_REPLY = 2 * MAX_VALUE + 12 * MAX_STDOUT  # bytes of a whole reply: JSON escapes a character to twelve at most

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


def one_line(error: BaseException) -> str:
    """``TypeError: its message (line 3)`` on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300].removesuffix(":").removesuffix(": ")
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<code>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{text} (line {line})" if line else text


def execute(source: bytes, job: dict[str, Any], code: Any, output: Capped) -> bytes:
    """Run one job and give the reply's JSON. Catches all that the job raises.

    The reply's ``tool`` says that the source of the tools failed, whatever the call was: it does not load, lacks the
    function, or returned a type that is not JSON.
    """
    value, error, loaded, tool = "null", None, False, False
    try:
        name = job["name"]
        module = types.ModuleType("__main__" if name is None else "tool")
        space: dict[str, Any] = vars(module)
        space["__builtins__"] = builtins
        if name is not None:  # where dataclasses, among others, look for the names in a class's hints
            sys.modules["tool"] = module
        if code is None:
            text = source.decode("utf-8", "surrogatepass")
            code = compile(text, "<code>" if name is None else "<tool>", "exec")
        exec(code, space)
        if name is None and "result" not in space:
            raise NameError("the code did not set `result`")
        if name is not None and name not in space:
            raise NameError(f"the source defines no function {name!r}")
        loaded = True
        result = space["result"] if name is None else values.call(space[name], job["arguments"])
        value = "".join(_encode(values.plain(result, convert=name is not None), True))
        if len(value) > MAX_VALUE:
            raise ValueError(f"the result is too large: {len(value):,} characters of JSON, at most {MAX_VALUE:,}")
    except BaseException as e:  # SystemExit and KeyboardInterrupt of the job are the job's failures
        value, error = "null", one_line(e)
        tool = job["name"] is not None and (not loaded or isinstance(e, values.NotJSON))
    rest = "".join(_encode({"error": error, "stdout": output.take(), "tool": tool}, True))
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
    """One message.

    Kinds of requests: q a job, k stop it. Of replies: r done, R done but replace this worker, t stopped,
    s infrastructure failure.
    """
    return struct.pack("=I", 9 + len(body)) + nonce + kind + body


def read_request(fd: int) -> tuple[bytes, bytes, dict[str, Any]] | None:
    """The next request: its nonce, source and job (empty in a request to stop); None when the caller has ended."""
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
    """The names that a call could change, as (the live names, a copy): those of the modules and of their classes."""
    spaces = [vars(module) for module in modules]
    for module in modules:
        # 1 << 8: a class of C that cannot be changed
        kinds = [v for v in vars(module).values() if isinstance(v, type) and not v.__flags__ & 1 << 8]
        spaces += [vars(kind) for kind in kinds if kind.__module__ == module.__name__]
    return [(space, dict(space)) for space in spaces]


def settings_of_interpreter() -> tuple[Any, ...]:
    """Interpreter state that a call could change and that is not a name in a module."""
    return sys.getrecursionlimit(), sys.get_int_max_str_digits(), gc.isenabled(), sys.gettrace(), sys.getprofile()


def intact(spaces: list[tuple[Any, dict[str, Any]]]) -> bool:
    """Whether no call changed these names. A submodule that an import added to its package is harmless."""
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
    known: dict[bytes, tuple[Any, list[tuple[Any, dict[str, Any]]]]] = {}  # source -> code, what it could change
    settings = settings_of_interpreter()
    while (request := read_request(requests)) is not None:
        nonce, source, job = request
        code, spaces = known.get(source, (None, []))
        if code is None:
            try:
                text = source.decode()
                code = compile(text, "<tool>", "exec")
                modules = [builtins, sys, sys.modules[__name__], values]
                for name in imported(text):
                    try:
                        modules.append(importlib.import_module(name))
                    except Exception:  # the call itself will report it
                        continue
                spaces = watched(modules)
                if len(known) == 256:
                    known.clear()
                known[source] = code, spaces
            except Exception:  # such as a syntax error: the call itself will report it
                code = None
        body = execute(source, job, code, output)
        clean = code is not None and settings == settings_of_interpreter() and intact(spaces)
        clean = clean and b'"error": "MemoryError' not in body
        write_all(replies, frame(nonce, b"r" if clean else b"R", body))


# --- one child a call ----------------------------------------------------------------------------------------------


def run_child(
    source: bytes, job: dict[str, Any], reply: int, null: int, confine: Callable[[], None], output: Capped
) -> None:
    """In the forked child: keep one pipe, confine itself, run, answer, end. Never returns."""
    status = 1
    try:
        os.dup2(reply, 3)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(4, 64)
        confine()
        body = execute(source, job, None, output)
        write_all(3, struct.pack("=I", len(body)) + body)
        status = 0
    finally:
        os._exit(status)


def collect(reply: int, pid: int, requests: int) -> tuple[bytes, bytes]:
    """Read a child's reply until it closes the pipe or the caller asks to stop, then end the child: (kind, body).

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
    if ended and not whole:  # the child is ending, or goes on with its pipe closed
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


def serve_forks(requests: int, replies: int, null: int, confine: Callable[[], None], output: Capped) -> None:
    """Fork one confined child for each call until the caller closes the pipe."""
    while (request := read_request(requests)) is not None:
        nonce, source, job = request
        if not job:
            continue  # a request to stop that came after the reply
        reply, write = os.pipe()
        try:
            pid = os.fork()
        except OSError as e:
            os.close(write)
            kind, body = b"s", f"cannot fork: {e.strerror}".encode()
        else:
            if pid == 0:
                run_child(source, job, write, null, confine, output)
            os.close(write)
            kind, body = collect(reply, pid, requests)
        os.close(reply)
        write_all(replies, frame(nonce, kind, body))


def main() -> None:
    """Confine this process, report ``ready`` or the reason why not on the reply pipe, then serve."""
    settings = json.loads(sys.argv[1])
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        for name in PRELOAD.split():
            importlib.import_module(name)
        confinement = load_beside("confinement")
        confinement.confine(settings)
        program = confinement.seccomp_program(files=bool({"landlock", "bubblewrap"} & set(settings["layers"])))
        if not settings["fork"]:
            confinement.apply_seccomp(program)
    except Exception as e:
        write_all(replies, frame(bytes(8), b"s", f"{type(e).__name__}: {e}".encode()))
        return
    gc.freeze()  # keeps the collector off what was loaded so far
    output = Capped()
    sys.stdout = sys.stderr = output
    write_all(replies, frame(bytes(8), b"r", b"ready"))
    if settings["fork"]:
        confine_child = functools.partial(confinement.confine_child, program, settings["time_limit"])
        serve_forks(requests, replies, null, confine_child, output)
    else:
        serve(requests, replies, output)


if __name__ == "__main__":
    main()
