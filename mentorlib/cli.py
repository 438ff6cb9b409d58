"""The command line: ``python -m mentorlib COMMAND``, also ``mentor COMMAND``.

Exit codes: 0 done; 1 something failed (a notebook's cell, a stage, a result that is not verified, a row that cannot be
scored); 2 the input is wrong (one line on stderr names the file, row or key, and the remedy).
"""

import io
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from typer import Argument, Option

from .core import InputError, did_you_mean
from .runs.files import describe_os_error, is_stream
from .runs.progress import visible
from .runs.run import Run, trajectory_files

app = typer.Typer(
    help="Distil tool use into small models; see what rewards do. Begin with: mentor run notebooks/00_tour.ipynb",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no "…" gets its escape
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(None if arguments is None else list(arguments), prog_name="mentor", standalone_mode=False) or 0
        sys.stdout.flush()
    except typer.TyperException as error:  # of the command line itself, such as an unknown option
        hint = _papermill_hint(sys.argv[1:] if arguments is None else arguments) or "see --help"
        return _report_error(f"{error.format_message().rstrip('.')}; {hint}", 2)
    except InputError as error:
        return _report_error(str(error), 2)
    except BrokenPipeError:  # of a reader such as `head`, which has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:  # such as a full disk, or a folder that cannot be written
        return _report_error(describe_os_error(error), 2)
    return _report_error("interrupted", code) if code == 130 else code


def _report_error(message: str, code: int) -> int:
    typer.secho(f"mentor: {visible(message)}", err=True, fg="red")
    return code


def _papermill_hint(words: Sequence[str]) -> str:
    """How to write what papermill takes as ``-p steps 3``; "" if the command line has nothing of the kind."""
    at = next((i for i, word in enumerate(words) if word in ("-p", "-r")), len(words))
    name, value = words[at + 1 : at + 3] if len(words) > at + 2 else ("steps", "3")
    return f"write parameters as key=value: {name}={value}" if at < len(words) else ""


def _beside(output: str) -> Any:
    """Where to say what was written: on stderr if the output itself may be stdout."""
    return sys.stderr if output and is_stream(output) else sys.stdout


def _complete_run(incomplete: str) -> list[str]:
    names = sorted(file.parent.name for file in Path("runs").glob("*/run.json"))
    return [name for name in names if name.startswith(incomplete)]


def _complete_parameter(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from .lab.batch.parameters import parameters_of, read_notebook

    with suppress(InputError):
        known = parameters_of(read_notebook(context.params.get("notebook", "")))
        return [(f"{p.name}=", p.help) for p in known if f"{p.name}=".startswith(incomplete)]
    return []


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mentor {metadata.version('mentorlib')}")
        raise typer.Exit


def _examples(*commands: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(f"$ mentor {command}".replace("[", r"\[") for command in commands)


def _output(help: str) -> Any:
    return Option("-o", "--output", help=help)


RunName = Annotated[str, Argument(metavar="RUN", help="a run's name or folder", autocompletion=_complete_run)]


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


@app.command(
    "run",
    epilog=_examples(
        "run notebooks/00_tour.ipynb",
        "run notebooks/02_train.ipynb data=runs/quick-data reward=f1 steps=24 run=f1",
        "run notebooks/05_compare.ipynb runs=[quick-exact,f1] run=compare",
    ),
)
def _run(
    notebook: str,
    parameters: Annotated[
        list[str] | None,
        Argument(
            metavar="key=value",
            help=r"values are YAML: suites=\[a, b] learning_rate=1e-6",
            autocompletion=_complete_parameter,
        ),
    ] = None,
    output: Annotated[str, Option(help="folder for notebook.ipynb and report.html (default: the run's folder)")] = "",
    attached: Annotated[
        bool, Option("--attached", help="end with the process that started this (Linux); wait until --output is free")
    ] = False,
) -> int:
    """Execute a notebook and write its HTML report."""
    from .lab.batch.notebook import NotebookFailed, run_notebook
    from .lab.batch.parameters import check_parameters, key_values
    from .runs.processes import die_with_parent

    if attached:
        die_with_parent()
    try:
        checked = check_parameters(notebook, key_values(parameters), text=True)
        report = run_notebook(notebook, checked, output or None, patience=math.inf if attached else 0.0)
    except NotebookFailed as error:
        return _report_error(str(error), 1)
    print(f"Report: {report}")
    return 0


@app.command("study", epilog=_examples("study studies/quick.yaml"))
def _study(
    file: str,
    workers: Annotated[int | None, Option(min=1, help="stages at a time (default: the file's)")] = None,
    any_library: Annotated[
        bool, Option("--any-library", help="count stages as done that another version of the library finished")
    ] = False,
    inline: Annotated[
        bool, Option("--inline", help="pages that can be sent alone, each 6 MB larger (default: scripts beside them)")
    ] = False,
) -> int:
    """Run the stages of a study file that are not done yet."""
    from .lab.batch.study import StudyFailed, run_study

    try:
        report = run_study(file, workers=workers, any_library=any_library, inline=inline)
    except StudyFailed as error:
        return _report_error(str(error), 1)
    print(f"Report: {report}")
    return 0


@app.command("init", epilog=_examples("init my-work"))
def _init(folder: Annotated[str, Argument(help="a new or empty folder")]) -> None:
    """Make a workspace: the notebooks, the studies and a reward of your own to begin with."""
    from .lab.workspace import create_workspace

    made = create_workspace(folder)
    print(f"{made}: notebooks, studies and mine.py, a reward of your own; its README.md says what to run first:")
    print(f"cd {shlex.quote(str(made))} && {shlex.quote(sys.executable)} -m mentorlib run notebooks/00_tour.ipynb")


@app.command("lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def _lab(context: typer.Context) -> None:
    """Open JupyterLab on the workspace, at its README; takes JupyterLab's options, such as --no-browser."""
    from jupyterlab.labapp import main as jupyterlab

    from .lab.workspace import JUPYTERLAB
    from .runs.workspace import find_workspace

    os.chdir(find_workspace())
    settings = ["--LabApp.default_url=/lab/tree/README.md", f"--LabApp.app_settings_dir={JUPYTERLAB}"]
    jupyterlab([*settings, *context.args])


@app.command(
    "score", epilog=_examples("score rollouts.jsonl", "score rollouts.jsonl --reward exact --reward mine.py:brevity")
)
def _score(
    file: Annotated[str, Argument(help="JSON Lines: response, answer, teacher_tools")],
    rewards: Annotated[list[str] | None, Argument(help="as --reward")] = None,
    reward: Annotated[list[str] | None, Option(help="default: every reward")] = None,
    version: Annotated[str, Option(help="corrected or official")] = "corrected",
    valid_tools: Annotated[str | None, Option(metavar="a,b,c", help="for rows without tools")] = None,
    output: Annotated[str, _output("default: scored/ beside FILE; bad rows go to OUT.rejected.jsonl")] = "",
) -> int:
    """Score stored rows under rewards, without training."""
    from .rewards.score_file import score_file

    tools = None if valid_tools is None else [name.strip() for name in valid_tools.split(",") if name.strip()]
    counts = score_file(file, output or None, [*(reward or ()), *(rewards or ())], version, tools)
    line = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    print(line, file=_beside(output))
    if not counts["rows"]:
        return _report_error(f"{file}: no rows in it", 2)
    if counts["seem_cut"] and counts["seem_cut"] == counts["scored"]:
        return _report_error(
            f"{file}: all rows seem cut off, since none ends in an end token such as <|im_end|>, and are scored so: if "
            'your server leaves it out, give each row finish_reason, "stop" or (where it was cut) "length"',
            1,
        )
    return 1 if counts["rejected"] else 0


@app.command("view", epilog=_examples("view quick-exact", 'view quick-exact --text --where "not correct" -n 5'))
def _view(
    run: RunName,
    rows: Annotated[
        str, Option(help="one file in it, eval/calculator.jsonl (default: all; with --text the first)")
    ] = "",
    where: Annotated[str, Option(help="a condition such as \"not correct and stop == 'answered'\"")] = "",
    output: Annotated[str, _output("write the page there and open nothing (default: in the run's folder)")] = "",
    text: Annotated[bool, Option("--text", help="list them here, for a terminal or a pipe")] = False,
    number: Annotated[int, Option("-n", min=0, help="with --text, how many")] = 20,
) -> None:
    """Read a run's trajectories in a web browser, or here with --text."""
    opened = Run.open(run)
    files = [str(path.relative_to(opened.path)) for path in trajectory_files(opened.path)]
    if not rows and not files:
        raise InputError(f"{opened.path}: no trajectories in it (eval/*.jsonl, rollouts.jsonl)")
    if rows and (Path(rows).is_absolute() or not (opened.path / rows).is_file()):
        raise InputError(f"{opened.path}: no rows {rows!r}; there are: {', '.join(files) or 'none'}")
    if text:
        _print_trajectories(opened, files, rows or files[0], where, number)
    else:
        _open_page(opened, rows, where, output)


def _print_trajectories(run: Run, files: list[str], file: str, where: str, number: int) -> None:
    import pydoc

    from .lab.report.transcript import transcript_text
    from .runs.query import select_rows

    rows = run.read_rows(file)
    chosen = select_rows(rows, where) if where else rows
    shown = chosen[:number]
    others = ", ".join(name for name in files if name != file)
    head = f"{run.path / file}: {len(shown)} of {len(chosen)} rows" + (f"; also {others}" if others else "")
    text = "\n\n".join([visible(head), *map(transcript_text, shown)])
    pydoc.pager(text) if sys.stdout.isatty() else print(text)


def _open_page(run: Run, file: str, where: str, output: str) -> None:
    import webbrowser

    from .lab import analysis
    from .lab.report import viewer
    from .runs.query import select_rows

    name, root = run.path.name, run.path.parent
    rows = analysis.load.read([name], root, Path(file).as_posix()) if file else analysis.load.trajectories([name], root)
    if where:
        known = [{k: v if v == v else None for k, v in row.items()} for row in rows.to_dict("records")]  # it is NaN
        rows = rows[rows["where"].isin({row["where"] for row in select_rows(known, where)})]
    page_name = "trajectories-view.html" if file or where else "trajectories.html"  # which the report's numbers open
    page = viewer.write_trajectories(output or run.path / page_name, rows, f"Trajectories of {run.name}")
    print(f"{len(rows)} trajectories: {page}", file=_beside(output))
    if not output and not webbrowser.open(page.resolve().as_uri()):
        print("no web browser here: open that file in one")


@app.command("verify", epilog=_examples("verify quick-exact", "verify reports/quick"))
def _verify(
    target: Annotated[str, Argument(help="a run's name or folder, a report.html, or a study's report or folder")],
) -> int:
    """Compute recorded results again from their rows."""
    from .lab.analysis.recompute import verify_run
    from .runs.run import read_stages

    if target.endswith(".html") and not Path(target).is_file():
        raise InputError(f"{target}: no such report")
    folder = Path(target).parent if target.endswith(".html") else Path(target)
    stages = folder / "stages.json"
    checked: list[dict[str, Any]] = []
    for path in read_stages(stages) if stages.exists() else [folder]:
        run = Run.open(path)
        results = verify_run(run)
        checked += results
        for result in results:
            if result["ok"] is False:
                said = f"{run.path}: {result['key']} says {result['value']}, its rows give {result['recomputed']}"
                print(visible(said))
    verified, wrong, stated = ([result["ok"] for result in checked].count(ok) for ok in (True, False, None))
    print(
        f"{verified} of {verified + wrong} results verified from their rows; "
        f"{stated} carry no rows to compute them from"
    )
    return 1 if wrong else 0


@app.command("export", epilog=_examples("export quick-exact", "export quick-exact --to hub --license apache-2.0"))
def _export(
    run: RunName,
    to: Annotated[Literal["archive", "hub", "inspect", "trackio"], Option()] = "archive",
    output: Annotated[
        str, _output("a file (archive: RUN.tar.gz), a folder (RUN-hub, RUN-inspect) or a project (trackio: mentorlib)")
    ] = "",
    license: Annotated[str, Option(help="with --to hub: its identifier there, such as apache-2.0")] = "",
) -> None:
    """Give a run to others: an archive, a folder for the hub, logs for other viewers."""
    from .lab.export import archive, hub, inspect_logs, trackio_traces

    opened = Run.open(run)
    if to == "archive":
        print(archive.save_archive(opened, output or f"{opened.name}.tar.gz"), file=_beside(output))
    elif to == "hub":
        print(hub.save_hub(opened, output or f"{opened.name}-hub", license=license))
    elif to == "inspect":
        print(*inspect_logs.save_inspect(opened, output or f"{opened.name}-inspect"), sep="\n")
    else:
        project = output or "mentorlib"
        traces = trackio_traces.save_trackio(opened, project)
        print(f"{traces} traces in trackio's project {project}: trackio show --project {shlex.quote(project)}")


@app.command("import", epilog=_examples("import quick-exact.tar.gz --name theirs"))
def _import(file: str, name: Annotated[str, Option(help="of the new run (default: the one it had)")] = "") -> None:
    """Unpack an archive of a run into runs/."""
    from .lab.export.archive import load_archive

    print(load_archive(file, name=name or None).path)


@app.command("check", epilog=_examples("check runs/models/SmolLM2-135M-Instruct groups=4 group_size=8"))
def _check(
    model: Annotated[str, Argument(help="nano, a model folder, a .gguf file or a hub name")],
    settings: Annotated[
        list[str] | None,
        Argument(metavar="key=value", help="as in notebook 02: data=, template=, groups=, micro_batch=, lora_rank= …"),
    ] = None,
) -> None:
    """Show whether a model can be trained and sampled: template, calls, logits, prompt lengths, memory, time."""
    from pydantic import ConfigDict, TypeAdapter

    from .lab.batch.parameters import fitting_values, key_values
    from .rollout.names import find_model

    find_model(model)  # before torch is imported
    from .trainer.model_page import model_page

    types = {key: hint for key, hint in get_type_hints(model_page).items() if key not in ("name", "return")}
    given = {}
    for key, text in key_values(settings).items():
        if key not in types:
            hint = did_you_mean(key, types).strip() or f"there are {', '.join(types)}"
            raise InputError(f"{key!r} is no setting of check; {hint}")
        values = fitting_values(text, TypeAdapter(types[key], config=ConfigDict(strict=True)), text=True)
        if not values:
            raise InputError(f"{key} takes {getattr(types[key], '__name__', 'a dict')}, not {text:.80}")
        given[key] = values[0]
    for line in model_page(model, **given):
        print(visible(line), flush=True)  # names of tokens are a model folder's


@app.command("doctor")
def _doctor() -> int:
    """Show versions and cores of this machine, and test each sandbox layer."""
    from .runs.provenance import git_revision, versions
    from .sandbox import doctor

    memory = ""
    if hasattr(os, "sysconf"):  # not on Windows
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB memory"
    print(f"python     {platform.python_version()} ({sys.executable})")
    print(f"machine    {platform.platform()}, {os.cpu_count()} cores{memory}")
    try:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        print(f"gpu        {', '.join(devices) or 'none'}")
    except ImportError:
        print("gpu        torch is not installed: run `make study` or pip install -c constraints.txt -e .")
    print(f"code       {git_revision() or 'not a git checkout'}")
    print(f"packages   {', '.join(f'{name} {version}' for name, version in versions().items())}")
    tests = doctor.self_test()
    for i, (layer, verdict, words) in enumerate(tests):
        print(f"{'' if i else 'sandbox':<10} {layer:<12} {verdict:<7} {words}")
    return 1 if any(verdict == "FAIL" for _, verdict, _ in tests) else 0
