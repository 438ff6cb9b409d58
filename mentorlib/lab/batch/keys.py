"""What each stage of a study depends on, as a key: a hash of code, parameters and inputs."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

from ...data.sources import SOURCES
from ...runs.files import file_hash
from ...runs.functions import function_file
from ...runs.provenance import versions
from .parameters import read_notebook
from .plan import RUNS, Stage, strings_in

# Files and folders of the library that no stage's results depend on: stage keys leave them out.
FILES_WITHOUT_EFFECT = (
    *("lab/batch/plan.py", "lab/batch/keys.py", "lab/batch/schedule.py", "lab/batch/stage_folder.py"),
    *("lab/batch/study.py", "lab/batch/setting.py"),
    *("lab/batch/study_page.py", "lab/batch/study_page.template"),
    *("lab/export", "lab/workspace", "runs/processes.py", "cli.py", "__main__.py"),
)


def stage_keys(stages: Iterable[Stage]) -> tuple[dict[str, str], dict[str, str]]:
    """The key of each stage by its name, and the same without the library in it; stages come after those they need.

    Of the notebook, its code and the values that the parameters have in this stage count. Text, comments, blanks, and
    defaults that the stage overrides do not: JupyterLab saves every edit, and most change no result.
    """
    stages = list(stages)
    own = {stage.folder for stage in stages}
    content = cache(partial(_content, own=own))  # a model's weights are read once, however many stages name them
    cells = cache(_code_cells)
    code, packages = _folder_hash(Path(__file__).parents[2], skip=FILES_WITHOUT_EFFECT), versions()
    keys: dict[str, str] = {}
    plain: dict[str, str] = {}
    for stage in stages:
        contents = {text: content(text) for text in strings_in(stage.values)}
        for known, library in ((keys, code), (plain, "")):
            parts = [
                cells(stage.notebook),
                stage.values,
                contents,
                [known[need] for need in stage.needs],
                library,
                packages,
            ]
            known[stage.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return keys, plain


def _code_cells(notebook: Path) -> list[str]:
    """The code of a notebook without its parameters."""
    cells = read_notebook(notebook).cells
    return [
        _code(cell.source)
        for cell in cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", ())
    ]


def _code(source: str) -> str:
    """A cell's code without comments and blanks; as it is if it is not plain Python, such as a magic."""
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:
        return source.strip()


def _content(text: str, own: set[Path]) -> str | None:
    """The hash of the file or folder that a parameter names; None if it names none.

    Also as 01's ``source:path``, and of a reward's ``FILE.py:FUNCTION``.

    Of another study's run, by folder or name, it is that of run.json, which every execution changes; a folder under
    runs/ without one, such as a model's, is read as any other. The study's own runs (``own``) are left to the keys of
    their stages.
    """
    source, _, place = text.partition(":")
    path = Path(place if place and source in SOURCES else function_file(text) or text)
    try:
        if len(path.parts) == 1 and (RUNS / path / "run.json").is_file():
            path = RUNS / path
        if not text or any(path == folder or folder in path.parents for folder in own):
            return None
        if path == RUNS:  # as the notebooks' ``root``
            return None
        if path.parts[:1] == (str(RUNS),) and (info := Path(*path.parts[:2], "run.json")).is_file():
            path = info
        return file_hash(path) if path.is_file() else _folder_hash(path) if path.is_dir() and path.name else None
    except OSError:
        return None


def _folder_hash(folder: Path, skip: tuple[str, ...] = ()) -> str:
    left_out = {folder / name for name in skip}
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    files = [p for p in files if not left_out.intersection([p, *p.parents])]
    lines = "".join(f"{p.relative_to(folder)} {file_hash(p)}\n" for p in files)
    return hashlib.sha256(lines.encode()).hexdigest()
