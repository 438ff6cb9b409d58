"""Validate a model name or server URL before loading. This file imports neither torch nor transformers."""

import importlib.util
import re
from pathlib import Path
from urllib.parse import urlsplit

from ..core import InputError
from ..runs.parameters import Planned
from ..runs.run import reject_credentials

NANO = Path(__file__).parents[1] / "students" / "nano"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def find_model(name: str) -> Path | None:
    """The folder or .gguf file of a model; None for a hub name, which is not looked up.

    Raises:
        InputError: no folder of a model, and no hub name either.
    """
    source = NANO if name == "nano" else Path(name)
    if source.suffix == ".gguf" and source.exists():
        if importlib.util.find_spec("gguf") is None:
            raise InputError(f"{name}: reading a .gguf file needs the gguf package: pip install gguf")
        return source
    if source.exists():
        if not (source / "config.json").is_file():
            raise InputError(
                f"{name}: no model folder (it has no config.json): give one written by save_pretrained, or a .gguf file"
            )
        return source
    if source.suffix == ".gguf" or not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise InputError(
            f"{name}: no such model folder: give 'nano', a model folder, a .gguf file or a hub name (owner/name)"
        )
    return None


def check_server(url: str, model: str) -> None:
    """InputError for what is no server's address, or holds a password, or without the model's name there."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as half an IPv6 address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url!r}: not a server's address: give one like http://localhost:8000/v1")
    reject_credentials(url)
    if not model:
        raise InputError(f"{url}: which model? give its name at that server")


def read_template(file: str) -> str:
    """The text of a chat template's file. InputError if it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"template={file}: cannot be read ({e.__class__.__name__}): give a file") from None


def check_policy(name: str, served: str, template: str = "") -> None:
    """Check a model's name, or a server's address and the name of its model there, and a file with a chat template.

    Raises:
        InputError: as above. What another stage of a study makes is not looked for.
    """
    if template and not isinstance(template, Planned):
        read_template(template)
    if isinstance(name, Planned):
        return
    if "://" in name:
        check_server(name, served)
    else:
        find_model(name)
