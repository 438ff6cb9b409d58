"""What every test stands on: no network for models and data, quiet threads."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("loaded", deadline=None)  # the machine may do other work
settings.load_profile("loaded")
# Each of several test processes has its share of the cores.
share = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SLOWEST = (
    "sandbox/test_sandbox lab/batch/test_cluster lab/report/test_browser trainer/test_launch trainer/test_trainer "
    "test_notebooks students/ trainer/ rollout/ rewards/ lab/batch/test_study test_project"
).split()


def pytest_collection_modifyitems(items):
    """The slowest files first, so that two processes end together (pytest sorts and merges what testpaths lists)."""
    items.sort(key=lambda item: next((i for i, at in enumerate(SLOWEST) if f"tests/{at}" in item.nodeid), len(SLOWEST)))


@pytest.fixture(scope="session")
def shared():
    """The folder beside the checkout with real data and the release's rewards, which are not the project's to ship."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.exists():
        pytest.skip("no ../shared here")
    return folder


@pytest.fixture(scope="session")
def sandbox():
    """One sandbox for all tests."""
    from mentorlib.sandbox.pool import Sandbox

    with Sandbox() as box:
        yield box


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """``transformers serve`` with the shipped student, in a process of its own."""
    from faults import transformers_serve

    with transformers_serve(tmp_path_factory.mktemp("server") / "log") as url:
        yield url


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Made-up runs, one folder each."""
    import synthetic

    path = tmp_path_factory.mktemp("runs")
    synthetic.make_runs(path)
    return path


@pytest.fixture(scope="session")
def rows(root):
    from mentorlib.lab import analysis

    return analysis.load.evaluations(root=root)


@pytest.fixture(scope="session")
def rollouts(root):
    from mentorlib.lab import analysis

    return analysis.load.rollouts(root=root)
