"""The command line: ``python -m mentorlib COMMAND``, also ``mentor COMMAND``.

Exit codes: 0 done; 1 something failed (a notebook's cell, a stage, a number that does not verify, a row that cannot be
scored); 2 the input is wrong (one line on stderr says which file, row or key, and the mend).
"""

import argparse
import json
import os
import platform
import pydoc
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .core import InputError
from .runs.run import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except InputError as error:
        print(f"mentor: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("mentor: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mentor", description="Distil tool use into small models; see what rewards do."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="execute a notebook and write its HTML report")
    run.add_argument("notebook")
    run.add_argument(
        "parameters", nargs="*", metavar="key=value", help="values are YAML: suites=[a, b] lr=1e-6 limit=null"
    )
    run.add_argument("--output", help="folder for notebook.ipynb and report.html (default: the run's folder)")
    run.add_argument(
        "--attached",
        action="store_true",
        help="end with the process that started this (Linux); wait until --output is free",
    )
    run.set_defaults(command=_run)

    study = commands.add_parser("study", help="run the stages of a study file that are not done yet")
    study.add_argument("file")
    study.add_argument("--workers", type=int, help="stages at a time (default: the file's)")
    study.add_argument(
        "--any-library", action="store_true", help="count stages as done that another version of the library finished"
    )
    study.set_defaults(command=_study)

    score = commands.add_parser("score", help="score stored rows under rewards, without training")
    score.add_argument("file", help="JSON Lines: response, answer, teacher_tools")
    score.add_argument("--reward", nargs="+", action="extend", metavar="NAME", help="default: every reward")
    score.add_argument("--version", default="corrected", help="corrected (default) or official")
    score.add_argument(
        "--valid-tools", type=lambda text: [t.strip() for t in text.split(",") if t.strip()], metavar="a,b,c"
    )
    score.add_argument("-o", "--output", help="default: scored/ beside FILE; bad rows go to OUT.rejected.jsonl")
    score.set_defaults(command=_score)

    view = commands.add_parser("view", help="read a run's trajectories in a web browser, or here with --text")
    view.add_argument("run", help="a run's name or folder")
    view.add_argument(
        "--rows", help="one file in it, such as eval/calculator.jsonl (default: all; with --text the first)"
    )
    view.add_argument("--where", metavar="CONDITION", help="such as \"not correct and stop == 'answered'\"")
    view.add_argument("-o", "--output", help="write the page there and open nothing (default: in the run's folder)")
    view.add_argument("--text", action="store_true", help="list them here, for a terminal or a pipe")
    view.add_argument("-n", type=int, default=20, help="with --text, how many (default: 20)")
    view.set_defaults(command=_view)

    verify = commands.add_parser("verify", help="compute recorded results again from their rows")
    verify.add_argument("target", help="a run's name or folder, a report.html, or a study's report or folder")
    verify.set_defaults(command=_verify)

    export = commands.add_parser(
        "export", help="give a run to others: an archive, a folder for the hub, other viewers' logs"
    )
    export.add_argument("run", help="a run's name or folder")
    export.add_argument("--to", choices=["archive", "hub", "inspect", "trackio"], default="archive")
    export.add_argument(
        "-o",
        "--output",
        help="archive: a file (RUN.tar.gz); hub, inspect: a folder (RUN-hub, RUN-inspect); trackio: a project",
    )
    export.add_argument(
        "--license", default="", help="with --to hub: the licence's identifier there, such as apache-2.0"
    )
    export.set_defaults(command=_export)

    import_ = commands.add_parser("import", help="unpack an archive of a run into runs/")
    import_.add_argument("file")
    import_.add_argument("--name", help="of the new run (default: the one it had)")
    import_.set_defaults(command=_import)

    doctor = commands.add_parser("doctor", help="versions and cores of this machine, and a test of each sandbox layer")
    doctor.set_defaults(command=_doctor)
    return parser


def _run(options: argparse.Namespace) -> int:
    from .lab.batch.notebook import NotebookFailed, run_notebook
    from .lab.batch.parameters import check_parameters
    from .runs.processes import die_with_parent, lock_folder

    if options.attached:
        die_with_parent()
        lock = lock_folder(Path(options.output)) if options.output else None  # noqa: F841  held until the end
    given = {}
    for word in options.parameters:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{word!r}: write parameters as key=value")
        if name in given:
            raise InputError(f"{name!r} is given twice")
        given[name] = value
    try:
        report = run_notebook(options.notebook, check_parameters(options.notebook, given, text=True), options.output)
    except NotebookFailed as error:
        print(f"mentor: {error}", file=sys.stderr)
        return 1
    print(f"Report: {report}")
    return 0


def _study(options: argparse.Namespace) -> int:
    from .lab.batch.study import StudyFailed, run_study

    if options.workers is not None and options.workers < 1:
        raise InputError("--workers is at least 1")
    try:
        report = run_study(options.file, workers=options.workers, any_library=options.any_library)
    except StudyFailed as error:
        print(f"mentor: {error}", file=sys.stderr)
        return 1
    print(f"Report: {report}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from .rewards.score_file import score_file

    counts = score_file(options.file, options.output, options.reward, options.version, options.valid_tools)
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    return 1 if counts["rejected"] else 0


def _view(options: argparse.Namespace) -> int:
    from .runs.query import select_rows
    from .runs.run import Run

    run = Run.open(options.run)
    files = sorted(
        str(p.relative_to(run.path)) for p in [*run.path.glob("eval/*.jsonl"), *run.path.glob("rollouts.jsonl")]
    )
    if options.rows is None and not files:
        raise InputError(f"{run.path}: no trajectories in it (eval/*.jsonl, rollouts.jsonl)")
    if options.rows is not None and not (run.path / options.rows).is_file():
        raise InputError(f"{run.path}: no rows {options.rows!r}; there are: {', '.join(files) or 'none'}")
    if not options.text:
        return _view_page(run, options)
    name = options.rows or files[0]
    rows = run.read_rows(name)
    chosen = select_rows(rows, options.where) if options.where else rows
    shown = chosen[: max(0, options.n)]
    others = [file for file in files if file != name]
    head = f"{run.path / name}: {len(shown)} of {len(chosen)} rows" + (f"; also {', '.join(others)}" if others else "")
    text = "\n\n".join([head, *(_trajectory(row) for row in shown)])
    pydoc.pager(text) if sys.stdout.isatty() else print(text)
    return 0


def _view_page(run: "Run", options: argparse.Namespace) -> int:
    import webbrowser

    from .lab import analysis
    from .lab.report import viewer
    from .runs.query import select_rows

    rows = analysis.load.trajectories([run.path.name], run.path.parent)
    if options.rows:
        rows = rows[rows["where"].str.startswith(f"{run.path.name}/{options.rows}:")]
    if options.where:
        places = {row["where"] for row in select_rows(rows.to_dict("records"), options.where)}
        rows = rows[rows["where"].isin(places)]
    file = viewer.write(options.output or run.path / "trajectories.html", rows, f"Trajectories of {run.name}")
    print(f"{len(rows)} trajectories: {file}")
    if not options.output and not webbrowser.open(file.resolve().as_uri()):
        print("no web browser to open it with here; open that file in one")
    return 0


def _trajectory(row: dict[str, Any]) -> str:
    verdict = {True: "right", False: "wrong", None: "not judged"}.get(row.get("correct"), "not judged")
    facts = [str(row[key]) for key in ("task_id", "suite", "stop") if row.get(key) is not None]
    facts += [
        f"{key} {row[key]}" for key in ("step", "group", "sample", "total", "advantage") if row.get(key) is not None
    ]
    lines = [f"── {verdict} · {' · '.join(facts)}", f"question  {row.get('question', '')}"]
    for message in row.get("messages") or [{"role": "assistant", "content": row.get("response", "")}]:
        if message.get("content"):
            lines.append(f"{message['role']:<9} {message['content']}")
        for call in message.get("tool_calls") or ():
            function = call["function"]
            lines.append(f"{'call':<9} {function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})")
    lines.append(
        f"gold      {row.get('answer', '')}   teacher: {', '.join(row.get('teacher_tools') or ()) or 'no tools'}"
    )
    # What a model wrote must not steer the terminal.
    return "\n".join(
        "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in part)
        for line in lines
        for part in line.split("\n")
    )


def _verify(options: argparse.Namespace) -> int:
    from .lab.analysis.recompute import verify_run
    from .runs.run import Run

    target = Path(options.target)
    folder = target.parent if target.suffix == ".html" else target
    if (folder / "stages.json").exists():
        runs = [Run.open(path) for path in json.loads((folder / "stages.json").read_text()).values()]
    else:
        runs = [Run.open(folder)]
    wrong = checked = stated = 0
    for run in runs:
        for result in verify_run(run):
            stated += result["ok"] is None
            checked += result["ok"] is not None
            if result["ok"] is False:
                wrong += 1
                print(f"{run.path}: {result['key']} says {result['value']}, its rows give {result['recomputed']}")
    print(
        f"{checked - wrong} of {checked} results verified from their rows; {stated} carry no rows to compute them from"
    )
    return 1 if wrong else 0


def _export(options: argparse.Namespace) -> int:
    from .lab.export import archive, hub, inspect_logs, trackio_traces
    from .runs.run import Run

    run = Run.open(options.run)
    if options.to == "archive":
        print(archive.save_archive(run, options.output or f"{run.name}.tar.gz"))
    elif options.to == "hub":
        print(hub.save_hub(run, options.output or f"{run.name}-hub", license=options.license))
    elif options.to == "inspect":
        print(*inspect_logs.save_inspect(run, options.output or f"{run.name}-inspect"), sep="\n")
    else:
        project = options.output or "mentorlib"
        traces = trackio_traces.save_trackio(run, project)
        print(f"{traces} traces in trackio's project {project}: trackio show --project {shlex.quote(project)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from .lab.export.archive import load_archive

    print(load_archive(options.file, name=options.name).path)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .runs.provenance import git_revision, versions

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
    from .sandbox import doctor

    tests = doctor.self_test()
    for i, (name, verdict, words) in enumerate(tests):
        print(f"{'' if i else 'sandbox':<10} {name:<12} {verdict:<7} {words}")
    return 1 if any(verdict == "FAIL" for _, verdict, _ in tests) else 0


if __name__ == "__main__":
    sys.exit(main())
