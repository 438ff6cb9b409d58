"""Run a study: notebooks over grids of parameters, in the order of their needs, and a page that holds their reports.

A stage is one execution of a notebook, in its own process. A stage whose key (see `keys.stage_keys`) is the one it was
last finished with is skipped: a killed study goes on where it stopped, and a changed library never mixes old numbers
with new ones.
"""

import fcntl
from pathlib import Path

from ...core import InputError
from .keys import stage_keys
from .plan import REPORTS, StageStatus, check_stages, plan
from .schedule import Schedule, Submits
from .stage_folder import check_owner, read_record


class StudyFailed(RuntimeError):
    """A stage failed. The message is one line; ``report`` is the study's page."""

    def __init__(self, message: str, report: Path):
        super().__init__(message)
        self.report = report


def run_study(
    path: str | Path,
    executor: Submits | None = None,
    workers: int | None = None,
    any_library: bool = False,
    inline: bool = False,
) -> Path:
    """Run the stages of a study file that are not done yet; return the path of ``reports/<study>/index.html``.

    The format of the file is in docs/study.md. Its paths are relative to the current directory; every stage fills
    ``runs/<study>-<stage>``.

    Args:
        path: the study file.
        executor: where stages run: any concurrent.futures.Executor, a dask client's (``client.get_executor()``) or
            submitit's, on machines that share this directory and this Python (docs/cluster.md). By default ``workers``
            at a time here, each with its share of the cores. A stage whose worker dies is run again, twice at most.
        workers: overrides the file's.
        any_library: count stages as done that another version of the library finished, such as hours of training
            before a figure was changed; the page marks them.
        inline: each page holds its scripts; see ``write_study_page``.

    Raises:
        InputError: the file, a notebook or a parameter is wrong (before anything starts), or what a stage reads is;
            the study is running already; a stage's folder belongs to something else.
        StudyFailed: a stage failed. Stages that need it are skipped, the others run, and the page shows all.
    """
    path = Path(path)
    study, stages = plan(path)
    keys, plain = stage_keys(stages)
    statuses = {stage.name: StageStatus(stage, keys[stage.name]) for stage in stages}
    for stage in stages:
        record = read_record(stage)
        if record.get("done") == keys[stage.name] or (any_library and record.get("plain") == plain[stage.name]):
            statuses[stage.name].state = "done"
        elif stage.folder.exists():
            check_owner(stage)
    check_stages(path, (stage for stage in stages if statuses[stage.name].state != "done"))
    folder = REPORTS / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path} is running already; wait for it or end it") from None
        count, timings = workers or study["workers"], folder / "timings.json"
        Schedule(study["name"], statuses, plain, timings, executor, count).run()
        for name, status in statuses.items():
            record = read_record(status.stage)
            status.seconds, status.older = record.get("seconds"), record.get("done") not in (None, keys[name])
        from .study_page import write_study_page  # pandas, scipy and plotly: too long to wait for the first line

        report = write_study_page(study, list(statuses.values()), folder, inline)
    failed = [status for status in statuses.values() if status.state == "failed"]
    if failed:
        errors = "; ".join(f"{status.stage.name}: {status.error}" for status in failed)
        if all(status.exit_code == 2 for status in failed):
            raise InputError(errors)
        raise StudyFailed(f"{errors}; the rest is in {report}", report)
    return report
