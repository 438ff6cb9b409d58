"""Give a run to others: as one archive, as a model folder for the hub, as logs for the viewers they like.

An archive holds a run's folder, and `load_archive` puts it where no run is yet, whole or not at all. The rest is
one-way: what Inspect and trackio show is a copy, and the run stays the source of every number.
"""

import gzip
import json
import math
import shlex
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData

from . import analysis
from .core import InputError, ask
from .runs import Row, Run, check_name, read_rows, write_text

# --- One archive ---


def save_archive(run: Run, file: str | Path) -> Path:
    """Write a run's folder as one .tar.gz, whole or not at all, without owners' names; give its path.

    Hidden files (locks, half-written ones) stay out. InputError names a link, which would not arrive.
    """
    file = Path(file)
    inside = [
        p for p in sorted(run.path.rglob("*")) if not any(x.startswith(".") for x in p.relative_to(run.path).parts)
    ]
    for link in (p for p in inside if p.is_symlink()):
        raise InputError(f"{link} is a link: put what it points to in its place, then export again")

    def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    partial = _folder_of(file) / f".{file.name}.partial"
    try:
        with tarfile.open(partial, "w:gz", compresslevel=6) as archive:
            for path in (p for p in inside if p.is_file()):
                archive.add(path, f"{run.name}/{path.relative_to(run.path).as_posix()}", filter=nobodys)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def load_archive(file: str | Path, root: str | Path = "runs", name: str | None = None) -> Run:
    """Unpack an archive of a run into ``root``, whole or not at all, and open it.

    It comes from somebody else, so nothing in it is trusted: files and folders only, all inside one folder; it never
    touches a run that is there.

    Args:
        file: what `save_archive` wrote.
        root: where runs are kept.
        name: of the new run; by default the one it had.

    Raises:
        InputError: no such archive, a broken one, one with links or paths that lead out of it, one that holds no run,
            too large for the disk; or there is a run of that name.
    """
    file, root = Path(file), Path(root)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not hasattr(tarfile, "data_filter"):
        raise InputError("this Python cannot unpack safely: update to Python 3.11.4 or later")
    try:
        with gzip.open(file) as stream, tarfile.open(fileobj=stream) as archive:
            members = archive.getmembers()
            while stream.read(2**20):  # to the very end, where the checksum of the whole is
                pass
            old = _check_members(file, members)
            target = root / check_name(name or old)
            if target.exists():
                raise InputError(f"{target} exists: import under another name with --name, or remove it")
            root.mkdir(parents=True, exist_ok=True)
            size, free = sum(m.size for m in members), shutil.disk_usage(root).free
            if size > free:
                raise InputError(f"{file}: holds {size / 1e9:.1f} GB, and {root} has room for {free / 1e9:.1f} GB")
            with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as partial:
                archive.extractall(partial, members, filter="data")
                try:
                    run = Run.open(Path(partial) / old)
                except InputError:  # names a folder that is about to go
                    raise ValueError("its run.json cannot be read") from None
                if not {"name", "parameters", "status", "data"} <= run.info.keys():
                    raise InputError(f"{file}: its run.json is not a run's")
                if run.info["name"] != target.name:
                    run.write_json("run.json", run.info | {"name": target.name})
                run.path.rename(target)
    except InputError:
        raise
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError, AttributeError) as error:
        raise InputError(f"{file}: no archive of a run, or a damaged one ({error}); get it again") from None
    return Run.open(target)


def _check_members(file: Path, members: list[tarfile.TarInfo]) -> str:
    """The one folder that all members are in."""
    tops = set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()):
            raise InputError(f"{file}: {member.name!r} is a link or a device; a run has files only: do not use it")
        if not parts or PurePosixPath(member.name).is_absolute() or ".." in parts:
            raise InputError(f"{file}: {member.name!r} leads out of the run's folder: do not use it")
        tops.add(parts[0])
    if len(tops) != 1 or f"{min(tops)}/run.json" not in {m.name for m in members}:
        raise InputError(f"{file}: holds no run: one folder with a run.json")
    return tops.pop()


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
            interval = entry["ci"] or analysis.wilson(entry["value"] * entry["n"], entry["n"])
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
from mentorlib import load_student

model, tokenizer = load_student("OWNER/NAME")  # or transformers' AutoModelForCausalLM and AutoTokenizer
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


# --- Inspect: one log a suite, and one of the training rollouts ---

_STOPS = {"answered": "stop", "gave_up": "stop", "length": "max_tokens"}


def save_inspect(run: Run, folder: str | Path) -> list[Path]:
    """Write each eval/<suite>.jsonl and rollouts.jsonl as a log of Inspect (its JSON, version 2); give the files.

    A row becomes a sample: the question as input, the gold answer as target, the messages with their tool calls, and a
    score (C right, I wrong, N not judged); further rows of a task are its further epochs. A training rollout has its
    step and what it was paid in its metadata. ``inspect view --log-dir FOLDER`` shows them; Inspect need not be
    installed to write them. Raises InputError if there is no row. Source: inspect_ai.log.EvalLog, 0.3.
    """
    files = [*sorted(run.path.glob("eval/*.jsonl")), *run.path.glob("rollouts.jsonl")]
    if not files:
        raise InputError(f"{run.path}: neither eval/*.jsonl nor rollouts.jsonl: nothing was evaluated or sampled")
    written = []
    for file in files:
        # Inspect lists files of this form only, and takes an underscore for the end of a part.
        parts = [run.info["created"].replace(":", "-"), *(x.replace("_", "-") for x in (file.stem, run.name))]
        text = json.dumps(_log(run, file.stem, read_rows(file)))
        written.append(write_text(Path(folder) / f"{'_'.join(parts)}.json", text))
    return written


def _log(run: Run, suite: str, rows: list[Row]) -> dict[str, Any]:
    model = f"mentorlib/{run.name}"
    judged = [row["correct"] for row in rows if row.get("correct") is not None]
    share = sum(judged) / len(judged) if judged else 0.0
    error = math.sqrt(share * (1 - share) / len(judged)) if judged else 0.0
    metrics = {name: {"name": name, "value": value} for name, value in {"accuracy": share, "stderr": error}.items()}
    created, finished = run.info["created"], run.info["finished"] or run.info["created"]
    counts: Counter[str] = Counter()
    samples = []
    for row in rows:
        counts[row["task_id"]] += 1
        samples.append(_sample(row, counts[row["task_id"]], model))
    packages = {"mentorlib": run.info["git"] or "unknown", **run.info["versions"]}
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": f"{run.name}-{suite}",
            "run_id": run.name,
            "task_id": f"{run.name}-{suite}",
            "created": created,
            "task": suite,
            "dataset": {"name": suite, "samples": len(rows), "sample_ids": list(counts)},
            "model": model,
            "config": {"epochs": max(counts.values(), default=1)},
            "packages": packages,
            "metadata": run.params,
            "scorers": [{"name": "correct"}],
        },
        "plan": {},
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows),
            "scores": [{"name": "correct", "scorer": "correct", "scored_samples": len(judged), "metrics": metrics}],
        },
        "stats": {"started_at": created, "completed_at": finished},
        "samples": samples,
    }


def _sample(row: Row, epoch: int, model: str) -> dict[str, Any]:
    messages = list(_messages(row))
    said = [m for m in messages if m["role"] == "assistant"]
    score = {True: "C", False: "I", None: "N"}[row.get("correct")]
    facts = (
        *("suite", "split", "stop", "tools", "teacher_tools", "teacher_calls", "n_tokens"),
        *("step", "group", "reward", "total", "terms", "reason", "advantage"),
    )
    choices = [{"message": said[-1], "stop_reason": _STOPS.get(row.get("stop", ""), "unknown")}] if said else []
    return {
        "id": row["task_id"],
        "epoch": epoch,
        "input": row["question"],
        "target": str(row["answer"]),
        "messages": messages,
        "output": {"model": model, "choices": choices},
        "scores": {
            "correct": {"value": score, "answer": said[-1]["content"] if said else "", "explanation": row.get("stop")}
        },
        "metadata": {name: row[name] for name in facts if name in row},
    }


def _messages(row: Row) -> Iterator[dict[str, Any]]:
    """A row's conversation from the question on, each tool call with an id that its result repeats."""
    yield from ask(row["question"])
    waiting: list[dict[str, Any]] = []
    for place, message in enumerate(row["messages"]):
        if message["role"] == "tool":
            call = waiting.pop(0) if waiting else {}
            yield {
                "role": "tool",
                "content": message["content"],
                "tool_call_id": call.get("id"),
                "function": call.get("function"),
            }
            continue
        waiting = []
        for number, call in enumerate(message.get("tool_calls") or ()):
            name, given = call["function"]["name"], call["function"]["arguments"]
            given = given if isinstance(given, dict) else {"arguments": given}
            waiting.append({"id": f"{place}-{number}", "function": name, "arguments": given, "type": "function"})
        yield {"role": "assistant", "content": message.get("content") or "", "tool_calls": list(waiting)}


# --- trackio: metrics and a trace a rollout, by step ---


def save_trackio(run: Run, project: str = "mentorlib") -> int:
    """Log a run to trackio: its metrics, and each training rollout and held-out row as a trace; give the traces.

    Training rollouts stand at their step, held-out rows after the last one. Read them with ``trackio show``. Raises
    InputError if trackio is not installed. It writes to this machine (TRACKIO_DIR), unless told otherwise by its own
    settings.
    """
    try:
        import trackio
    except ImportError:
        raise InputError("trackio is not installed: pip install trackio") from None
    file = run.path / "metrics.jsonl"
    metrics = {row["step"]: row for row in (read_rows(file) if file.exists() else ())}
    after = max(metrics, default=0) + 1
    traces: dict[int, dict[str, list[Any]]] = {}
    for file in [*run.path.glob("rollouts.jsonl"), *sorted(run.path.glob("eval/*.jsonl"))]:
        for row in read_rows(file):
            facts = {
                k: v for k, v in row.items() if isinstance(v, str | int | float) and k not in ("response", "question")
            }
            trace = trackio.Trace([_openai(message) for message in _messages(row)], facts)
            traces.setdefault(row.get("step", after), {}).setdefault(file.stem, []).append(trace)
    trackio.init(project=project, name=run.name, config=run.params)
    for step in sorted({*metrics, *traces}):
        numbers = {k: v for k, v in metrics.get(step, {}).items() if isinstance(v, int | float) and k != "step"}
        trackio.log(numbers | traces.get(step, {}), step=step)
    trackio.finish()
    return sum(len(found) for step in traces.values() for found in step.values())


def _openai(message: dict[str, Any]) -> dict[str, Any]:
    """A message of `_messages` as OpenAI writes it."""
    calls = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["function"], "arguments": json.dumps(call["arguments"])},
        }
        for call in message.get("tool_calls", ())
    ]
    kept = {k: v for k, v in message.items() if k in ("role", "content", "tool_call_id") and v is not None}
    return kept | ({"tool_calls": calls} if calls else {})


def _folder_of(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.parent
