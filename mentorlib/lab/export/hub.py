"""A run's student as a model repository of the Hugging Face hub, with a model card."""

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...core import InputError
from ...runs.files import write_text
from ...runs.rows import is_texts
from ...runs.run import Run, read_stages
from ..analysis.stats import wilson

_TEMPLATE = Path(__file__).with_name("model_card.template")


def save_hub(run: Run, folder: str | Path, beside: Sequence[str] | None = None, license: str = "") -> Path:
    """Write the files of a model repository: the run's ``model/``, results.json and the card, README.md.

    Args:
        run: one that trained a student (notebook 02).
        folder: where to; files of these names there are replaced.
        beside: runs whose accuracy the card shows beside this one's; by default those of the same study.
        license: an identifier of the hub, such as "apache-2.0"; the card states if it is missing.

    Raises:
        InputError: the run has no model, or a link in its folder; then nothing is written.
    """
    folder, model = Path(folder), run.path / "model"
    if not (model / "config.json").is_file() or run.params.get("method") == "none":
        raise InputError(f"{run.path} has no trained model: export a run of notebook 02 with method=sft or grpo")
    if links := [path for path in model.resolve().rglob("*") if path.is_symlink()]:
        raise InputError(f"{links[0]} is a link, and may lead out of the run: put the file in its place")
    card = _card(run, _runs_of_same_study(run) if beside is None else beside, license)
    shutil.copytree(model, folder, dirs_exist_ok=True)
    if run.results:
        shutil.copyfile(run.path / "results.json", folder / "results.json")
    write_text(folder / "README.md", card)
    return folder


def _card(run: Run, beside: Sequence[str], license: str) -> str:
    results = {run.name: _accuracies(run)}
    results |= {name: column for name in beside if (column := _accuracies(Run.open(name, run.path.parent)))}
    params, info = _plain(run.params), _plain(run.info)
    student, method = str(params.get("student", "unknown")), str(params.get("method", "unknown"))
    data = Path(str(run.params.get("data", "")))
    card_data = ModelCardData(
        model_name=run.name,
        base_model=student if "/" in student and not Path(student).exists() else None,  # only a name on the hub
        license=license or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tool-use", "mentorlib", method],
        eval_results=[
            EvalResult("text-generation", suite, suite, "accuracy", round(result["value"], 4))
            for suite, result in results[run.name].items()
        ]
        or None,
    )
    card = ModelCard.from_template(
        card_data,
        str(_TEMPLATE),
        run=run,
        info=info,
        params=params,
        student=student,
        method=f"GRPO with the reward `{params.get('reward')}`" if method == "grpo" else method,
        results=results,
        commands=[_command(made) for made in ([Run.open(data)] if (data / "run.json").exists() else []) + [run]],
        license=license,
    )
    return f"{card}\n"


def _plain(value: Any) -> Any:
    """JSON without what Markdown or HTML would interpret: a run that came with an archive may say anything."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return re.sub(r"[`<>|\[\]!*\s]+", " ", value) if isinstance(value, str) else value


def _runs_of_same_study(run: Run) -> list[str]:
    for file in Path("reports").glob("*/stages.json"):
        runs = read_stages(file)
        if run.path.resolve() in [path.resolve() for path in runs]:
            return [p.name for p in runs if p.name != run.name and (p / "run.json").exists()]
    return []


def _accuracies(run: Run) -> dict[str, dict[str, Any]]:
    """The recorded accuracies by suite, each with its interval or else Wilson's."""
    accuracies = {}
    for key, entry in run.results.items():
        if key.startswith("accuracy/") and _is_share(entry["value"]) and entry["n"]:
            known = entry["ci"] and None not in entry["ci"]
            interval = entry["ci"] if known else wilson(entry["value"] * entry["n"], entry["n"])
            accuracies[_plain(key.removeprefix("accuracy/"))] = entry | {"ci": interval}
    return accuracies


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _command(run: Run) -> str:
    """The command that makes a run again, with the parameters that were given."""
    notebook, given = "NOTEBOOK", list(run.params)
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or one from others
        made = json.loads((run.path / "notebook.ipynb").read_text())["metadata"]["mentorlib"]
        if is_texts(made["given"]) and re.fullmatch(r"[\w.-]+\.ipynb", made["notebook"]):
            notebook, given = made["notebook"], made["given"]
    values = run.params | {"run": run.name}
    words = [shlex.quote(f"{k}={v if isinstance(v, str) else json.dumps(v)}") for k, v in values.items() if k in given]
    return f"python -m mentorlib run notebooks/{notebook} {' '.join(words)}".replace("```", "")  # which ends the block
