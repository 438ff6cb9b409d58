"""A plain function in a file of the user's, named ``FILE.py:NAME``: a reward, or a suite that draws tasks.

The file is the user's own code: it runs in this process, without a sandbox. So it is loaded only where a person names
it (a parameter, an argument), never because stored rows do: rows may come from others.
"""

import hashlib
import inspect
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core import InputError, did_you_mean


def function_file(text: str) -> str:
    """The file in ``FILE.py:NAME``; "" if the text is of another form."""
    file, _, name = text.rpartition(":")
    return file if file.endswith(".py") and name else ""


def load_function(place: str, *, kind: str, form: str, arguments: int) -> Any:
    """The function at ``FILE.py:NAME``. Its file is executed once, and again after it changed.

    Args:
        place: the file, from the current directory, and the function.
        kind: the parameter that names it, for messages: "reward" or "suite".
        form: how to write such a function, for messages, with ``{name}`` for its name.
        arguments: how many it is called with.

    Raises:
        InputError: no such file or function, an error in the file, or a function that takes other arguments.
    """
    file, name = function_file(place), place.rpartition(":")[2]
    if not file:
        raise InputError(f"{kind}={place}: name a file and a function in it, as in {kind}=mine.py:{name or 'name'}")
    try:
        source = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{kind}={place}: {file} cannot be read ({error.strerror}); give FILE.py:FUNCTION") from None
    try:
        module = _execute(file, source)
    except (Exception, SystemExit) as error:
        raise InputError(f"{kind}={place}: {file} does not load: {describe_error(error, file)}") from None
    if name not in vars(module):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = did_you_mean(name, functions).strip() or f"it has {', '.join(functions) or 'no function'}"
        raise InputError(f"{kind}={place}: {file} has no function {name!r}; {hint}")
    function: Any = getattr(module, name)
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:  # also of what is no function at all
        raise InputError(f"{kind}={place}: {name} takes other arguments: {form.format(name=name)}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return function


@cache
def _execute(file: str, source: bytes) -> ModuleType:
    module = ModuleType(f"mentorlib_file_{hashlib.sha256(file.encode() + source).hexdigest()[:16]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses, pickle and inspect look a module up there
    try:
        exec(compile(source, file, "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def describe_error(error: BaseException, file: str) -> str:
    """An error in one line, with the last line of the file that led to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    words = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    where = f" (line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}: {words:.200}{where}".replace(": (", " (")
