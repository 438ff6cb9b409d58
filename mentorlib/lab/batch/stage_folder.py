"""The folder of a study's stage: whose it is, and stage.json, which says with which key it was finished."""

import json
import shutil
from collections.abc import Mapping
from typing import Any

from ...core import InputError
from ...runs.files import write_text
from ...runs.processes import RUN_LOCK, claim_run, release_run
from .plan import Stage


def check_owner(stage: Stage) -> None:
    """InputError if the folder of a stage that is to run is not this study's."""
    study = read_record(stage).get("study", stage.study)
    if study != stage.study or not (stage.folder / "stage.json").exists():
        owner = f"of {study}" if study != stage.study else "not of this study"
        raise InputError(f"{stage.folder} exists and is {owner}; remove it, or rename this study's file or its stage")


def prepare_folder(stage: Stage, key: str) -> None:
    """Make the stage's folder: an interrupted stage's is kept, so that training resumes; another key empties it.

    A server's replies stay: they may have cost money and are looked up by the hash of their request.

    Raises:
        InputError: another process writes the run.
    """
    if read_record(stage).get("key") not in (None, key):
        claim_run(stage.folder)
        for old in [p for p in stage.folder.iterdir() if p.name not in ("replies.jsonl", ".lock", RUN_LOCK)]:
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        release_run(stage.folder)
    stage.folder.mkdir(parents=True, exist_ok=True)
    write_record(stage, {"key": key})


def read_record(stage: Stage) -> dict[str, Any]:
    """stage.json: the key it last began with, and once finished ``done`` and ``plain`` (keys) and ``seconds``."""
    try:
        record: dict[str, Any] = json.loads((stage.folder / "stage.json").read_text())
    except (OSError, ValueError):
        return {}
    if not (stage.folder / "report.html").exists():
        record.pop("done", None)
        record.pop("plain", None)
    return record


def write_record(stage: Stage, record: Mapping[str, Any]) -> None:
    about = {"study": stage.study, "stage": stage.name}
    write_text(stage.folder / "stage.json", json.dumps({**about, **record}, indent=1) + "\n")
