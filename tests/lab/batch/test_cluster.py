"""Stages on other processes: dask's workers, submitit's jobs; one that dies is replaced, and results stay the same."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path

import pytest
from tiny import notebook

from mentorlib.lab.batch.schedule import Submits, _command
from mentorlib.lab.batch.study import StudyFailed, run_study
from mentorlib.runs.processes import lock_folder

PARAMETERS = 'run: str = "m"\nseed: int = 0\ndata: str = ""\nruns: list[str] = []\nfail: bool = False'
STUDY = """
stages:
  - {name: first, notebook: make.ipynb, parameters: {seed: 7}}
  - {name: many, notebook: make.ipynb, grid: {seed: [0, 1, 2]}, parameters: {data: $first/}}
  - {name: last, notebook: make.ipynb, parameters: {runs: [$many]}}
"""
# A stage without the seconds that a kernel takes: it ends with its parent, and waits if asked to.
SCRIPT = """
import json, os, random, sys, time
from pathlib import Path
from mentorlib.runs.processes import lock_folder, die_with_parent
die_with_parent()
folder, parameters = Path(sys.argv[1]), json.loads(sys.argv[2])
lock = lock_folder(folder)
with open("starts", "a") as starts:
    starts.write(f"{parameters['run']} {os.getpid()} {os.getppid()}\\n")
print("working", parameters["run"])
if parameters.get("fail"):
    sys.exit("mentor: asked to")
rng = random.Random(parameters.get("seed", 0))
rows = [{"value": rng.random(), "threads": os.environ["OMP_NUM_THREADS"]} for _ in range(5)]
before = [Path(p).read_text() for r in parameters.get("runs", []) for p in [f"runs/{r}/eval/a.jsonl"]]
(folder / "eval").mkdir(exist_ok=True)
(folder / "eval/a.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows) + "".join(before))
while Path("wait").exists() and parameters["run"] == Path("wait").read_text():
    time.sleep(0.02)
result = {"value": sum(r["value"] for r in rows), "ci": None, "n": 5, "rows": None, "query": None}
for name, text in {"report.html": "ok", "results.json": json.dumps({"sum": result})}.items():
    (folder / name).write_text(text)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)


def prepare(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notebook(Path("make.ipynb"), PARAMETERS, "pass")
    Path("stage.py").write_text(SCRIPT)
    Path("small.yaml").write_text(STUDY)
    monkeypatch.setattr(
        "mentorlib.lab.batch.schedule._command",
        lambda stage: [sys.executable, str(Path("stage.py")), str(stage.folder), json.dumps(stage.parameters)],
    )


@pytest.fixture(scope="module")
def dask(tmp_path_factory) -> Iterator[Submits]:
    """Two workers that were started in another folder than the studies."""
    from distributed import Client, LocalCluster

    where = {"dashboard_address": None, "local_directory": str(tmp_path_factory.mktemp("dask"))}
    with LocalCluster(n_workers=2, threads_per_worker=1, **where) as cluster, Client(cluster) as client:
        yield client.get_executor()


@pytest.fixture
def submitit(tmp_path) -> Submits:
    from submitit import AutoExecutor

    executor = AutoExecutor(tmp_path / "jobs", cluster="local")
    executor.update_parameters(timeout_min=10)
    return executor


@pytest.fixture(params=["dask", "submitit"])
def executor(request) -> Submits:
    return request.getfixturevalue(request.param)


def made() -> dict[str, bytes]:
    """What the stages left: rows and results, byte by byte."""
    files = [*Path("runs").glob("*/eval/*.jsonl"), *Path("runs").glob("*/results.json")]
    return {str(p): p.read_bytes() for p in files}


def starts(run: str) -> list[list[int]]:
    """[its process, its worker] of each start of a stage."""
    lines = Path("starts").read_text().splitlines() if Path("starts").exists() else []
    return [[int(n) for n in line.split()[1:]] for line in lines if line.split()[0] == run]


def gone(process: int) -> bool:
    """Ended, if perhaps not yet fetched by its new parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """What the study leaves where this process runs its stages."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        prepare(tmp_path_factory.mktemp("local"), monkeypatch)
        run_study("small.yaml")
        files = made()
    assert len(files) == 10
    return files


def test_a_cluster_gives_what_this_process_gives(executor, expected):
    run_study("small.yaml", executor=executor)
    assert made() == expected
    assert {len(starts(f"small-{name}")) for name in ("first", "many-0", "many-1", "many-2", "last")} == {1}
    logs = [log.read_text() for log in Path("jobs").glob("*.out")]  # where submitit keeps what a stage prints
    assert not logs or "[first] working small-first" in "".join(logs)


def test_a_killed_worker_s_stage_runs_again(executor, expected):
    Path("wait").write_text("small-many-1")

    def kill() -> None:
        while not starts("small-many-1"):
            time.sleep(0.02)
        os.kill(starts("small-many-1")[0][1], signal.SIGKILL)
        Path("wait").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    run_study("small.yaml", executor=executor)
    killer.join()
    assert made() == expected
    (first, worker), (second, other) = starts("small-many-1")
    assert first != second and worker != other
    assert {len(starts(f"small-{name}")) for name in ("first", "many-0", "many-2", "last")} == {1}
    end = time.monotonic() + 10
    while not gone(first):
        assert time.monotonic() < end, "the stage outlived its worker"
        time.sleep(0.05)


def test_a_stage_that_fails_is_not_run_again(executor):
    Path("small.yaml").write_text("stages: [{name: a, notebook: make.ipynb, parameters: {fail: true}}]")
    for count in (1, 2):  # the second study asks again, and is not given what the executor remembers
        with pytest.raises(StudyFailed, match="a: mentor: asked to"):
            run_study("small.yaml", executor=executor)
        assert len(starts("small-a")) == count


def test_a_pool_that_broke_ends_the_study_in_a_line(capfd):
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(Exception, match="terminated abruptly"):
            pool.submit(os._exit, 1).result()
        with pytest.raises(StudyFailed, match=r"first: did not come back, 3 times \(BrokenProcessPool: .*\); the rest"):
            run_study("small.yaml", executor=pool)
    assert len(re.findall("did not come back .* starts again", capfd.readouterr().out)) == 2


class Never(Executor):
    """Takes what it is given and does nothing with it."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.futures.append(Future())
        return self.futures[-1]


def test_an_interrupted_study_takes_its_stages_back(monkeypatch):
    def interrupt(_: float) -> None:  # not by a signal: a shell's background jobs ignore it
        raise KeyboardInterrupt

    monkeypatch.setattr("mentorlib.lab.batch.schedule.time.sleep", interrupt)
    executor = Never()
    with pytest.raises(KeyboardInterrupt):
        run_study("small.yaml", executor=executor)
    assert [future.cancelled() for future in executor.futures] == [True]


def test_two_processes_do_not_fill_one_folder(tmp_path, capfd):
    lock = lock_folder(tmp_path / "out")
    waiting = threading.Thread(target=lambda: lock_folder(tmp_path / "out").close())
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and f"process {os.getpid()} on " in capfd.readouterr().out
    lock.close()
    waiting.join(10)
    assert not waiting.is_alive()


@pytest.mark.slow
def test_notebooks_on_dask_leave_what_they_leave_here(dask, monkeypatch):
    """The real stages: data, and GRPO on them with its evaluation; weights and rows are equal byte by byte."""
    monkeypatch.setattr("mentorlib.lab.batch.schedule._command", _command)
    notebooks = Path(__file__).parents[3] / "notebooks"
    drawn = "sources: [], suites: [calculator], n_train: 8, n_eval: 4"
    Path("real.yaml").write_text(f"""
workers: 2
stages:
  - {{name: data, notebook: {notebooks}/01_build_data.ipynb, parameters: {{{drawn}}}}}
  - name: train
    notebook: {notebooks}/02_train.ipynb
    parameters: {{data: $data/, method: grpo, steps: 2, groups: 2, group_size: 4, max_tokens: 64,
                 eval_suites: [calculator], n_eval: 4}}
""")

    def left() -> dict[str, bytes]:
        names = ("model/model.safetensors", "rollouts.jsonl", "eval/calculator.jsonl")
        return {name: (Path("runs/real-train") / name).read_bytes() for name in names}

    run_study("real.yaml")
    here = left()
    shutil.rmtree("runs")
    run_study("real.yaml", executor=dask)
    assert left() == here and len(here["rollouts.jsonl"].splitlines()) == 16
