"""Give a run to others: as one archive, as a model folder for the hub, as logs for the viewers they like.

An archive holds a run's folder, and `load_archive` puts it where no run is yet, whole or not at all. The rest is
one-way: what Inspect and trackio show is a copy, and the run stays the source of every number.
"""

import json
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData

from ...core import InputError
from ...runs.files import write_text
from ...runs.run import Run
from .. import analysis

# --- The hub: what save_pretrained wrote, and a card ---


def save_hub(run: Run, folder: str | Path, beside: Sequence[str] | None = None, license: str = "") -> Path:
    """Write what a model repository holds: the run's ``model/``, results.json and README.md, the card.

    Args:
        run: one that trained a student (notebook 02).
        folder: to fill; what stands there under these names is replaced.
        beside: runs whose accuracy stands beside this one's in the card; by default those of its study.
        license: an identifier of the hub, such as "apache-2.0"; the card says so where it is missing.

    Raises:
        InputError: the run has no model.
    """
    folder, model = Path(folder), run.path / "model"
    if not (model / "config.json").is_file():
        raise InputError(f"{run.path} has no model/: export a run of notebook 02 with method=sft or grpo")
    shutil.copytree(model, folder, dirs_exist_ok=True)
    if run.results:
        shutil.copyfile(run.path / "results.json", folder / "results.json")
    write_text(folder / "README.md", _card(run, _study_of(run) if beside is None else beside, license))
    return folder


def push(run: Run, repo: str, private: bool = True, api: HfApi | None = None, **card: Any) -> str:
    """Upload a run's student to the hub, with its card, as one commit; give its address.

    Args:
        run, card: see `save_hub`.
        repo: "owner/name"; made if it is not there.
        private: of a repository that is made.
        api: by default huggingface_hub's, with the token of `hf auth login`.
    """
    api = api or HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_hub(run, folder, **card)
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{run.name} by mentorlib"))


def _study_of(run: Run) -> list[str]:
    """The other runs of the study that a run is a stage of, as its page lists them."""
    for file in Path("reports").glob("*/stages.json"):
        runs = [Path(folder) for folder in json.loads(file.read_text()).values()]
        if run.path.resolve() in [path.resolve() for path in runs]:
            return [p.name for p in runs if p.name != run.name and (p / "run.json").exists()]
    return []


def _accuracies(run: Run) -> dict[str, dict[str, Any]]:
    """What results.json says of accuracy, by suite, each with an interval (Wilson's where it states none)."""
    found = {}
    for key, entry in run.results.items():
        if key.startswith("accuracy/") and entry["value"] is not None and entry["n"]:
            interval = entry["ci"] or analysis.stats.wilson(entry["value"] * entry["n"], entry["n"])
            found[key.removeprefix("accuracy/")] = entry | {"ci": interval}
    return found


def _command(run: Run) -> str:
    """The command that makes a run again; of one that no notebook made, its parameters."""
    notebook, given = "NOTEBOOK", list(run.params)
    if (run.path / "notebook.ipynb").exists():
        made = json.loads((run.path / "notebook.ipynb").read_text())["metadata"].get("mentorlib", {})
        notebook, given = made.get("notebook", notebook), made.get("given", given)
    values = run.params | {"run": run.name}
    words = [shlex.quote(f"{k}={v if isinstance(v, str) else json.dumps(v)}") for k, v in values.items() if k in given]
    return f"python -m mentorlib run notebooks/{notebook} {' '.join(words)}"


def _card(run: Run, beside: Sequence[str], license: str) -> str:
    columns = {run.name: _accuracies(run)}
    columns |= {name: table for name in beside if (table := _accuracies(Run.open(name, run.path.parent)))}
    params, suites = run.params, list(columns[run.name])
    student, method = str(params.get("student", "unknown")), str(params.get("method", "unknown"))
    on_hub = "/" in student and not Path(student).exists()
    facts = ModelCardData(
        model_name=run.name,
        base_model=student if on_hub else None,
        license=license or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["tool-use", "mentorlib", method],
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=suite,
                dataset_name=suite,
                metric_type="accuracy",
                metric_value=round(entry["value"], 4),
            )
            for suite, entry in columns[run.name].items()
        ]
        or None,
    )
    how = f"GRPO with the reward `{params.get('reward')}`" if method == "grpo" else method
    lines = [f"| suite | tasks | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for suite in suites:
        cells = [
            f"{e['value']:.1%} ({e['ci'][0]:.0%} to {e['ci'][1]:.0%})" if (e := table.get(suite)) else ""
            for table in columns.values()
        ]
        lines.append(f"| {suite} | {columns[run.name][suite]['n']} | {' | '.join(cells)} |")
    made = [_command(run)]
    data = Path(str(params.get("data", "")))
    if (data / "run.json").exists():
        made.insert(0, _command(Run.open(data)))
    hashes = [f"- `{path}`: {digest}" for path, digest in run.info["data"].items()] or ["- none recorded"]
    return f"""---
{facts.to_yaml()}
---

# {run.name}

The student `{student}`, trained to use tools: {how}, {params.get("steps")} steps, on the suite
`{params.get("suite")}`, seed {run.info["seed"]}. Made with mentorlib, which distils tool use from a large language
model into a small one (MENTOR, arXiv 2510.18383).

## Results

Accuracy on held-out tasks (split `{params.get("eval_split", "eval")}`), greedily, with 95% intervals (Wilson's where
the run states none): they cover the choice of tasks, not the luck of a training seed.

{chr(10).join(lines) if suites else "None recorded."}

## Use

```python
from mentorlib import load_model

model, tokenizer = load_model("OWNER/NAME")  # or transformers' AutoModelForCausalLM and AutoTokenizer
```

It writes tool calls in its chat template's format. Validate each against your tool's schema, and run it confined.

## How it was made

```
{chr(10).join(made)}
```

Data by SHA-256:

{chr(10).join(hashes)}

Code {run.info["git"] or "not from a git checkout"}; {", ".join(f"{k} {v}" for k, v in run.info["versions"].items())}.

## Intended use and limits

For research on how small models learn to use tools. The suites are generated problems or the named public sets:
accuracy there says little about other tools, languages or questions. It was not trained to refuse, and not tested
for harmful use.

## Licence

{license or "Not stated. That of the base student and that of the training data bind it; state one before publishing."}
"""


def _folder_of(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.parent
