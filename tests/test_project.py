"""What holds the project together: versions, notebooks as they should be, nothing of one machine."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from mentorlib.lab.batch.parameters import parameters_of, read_notebook

ROOT = Path(__file__).parent.parent
EXAMPLE = "docs/example/tour.html"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in lines), (
        "one exact public version a line"
    )
    return {_normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_what_the_project_names():
    pins, project = constraints(), tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        name, _, version = re.sub(r"\[.*?\]", "", requirement).partition("==")
        assert _normal(name) in pins, f"{name} is not pinned"
        assert version in ("", pins[_normal(name)]), f"{name}: pyproject.toml and constraints.txt disagree"
    for exact in ("torch", "trl", "transformers", "math-verify", "mathruler"):
        assert any(re.sub(r"\[.*?\]", "", r).startswith(f"{exact}==") for r in wanted), (
            f"{exact} wants an exact version"
        )


def test_conda_installs_the_same_versions():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in conda["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]  # what the Makefile installs, and nothing beside it
    assert "-c constraints.txt -e '.[dev]'" in (ROOT / "Makefile").read_text()
    assert [d for d in conda["dependencies"] if isinstance(d, str)] == ["python=3.11", "pip"]


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import distributions

    pins = constraints()
    installed = {_normal(d.metadata["Name"]): d.version.split("+")[0] for d in distributions() if d.metadata["Name"]}
    assert {n: v for n, v in installed.items() if n in pins and v != pins[n] and n not in ("pip", "setuptools")} == {}


def test_every_pin_installs_on_every_python_from_the_first():
    """Debian 12 has 3.11.2: a pin that wants 3.11.5 ends its installation in a page of pip's."""
    from importlib.metadata import distributions

    from packaging.specifiers import SpecifierSet

    for package in distributions():
        wanted = SpecifierSet(package.metadata.get("Requires-Python") or "")
        refused = [python for python in ("3.11.0", "3.12.0", "3.13.0", "3.14.0") if not wanted.contains(python)]
        assert not refused, f"{package.metadata['Name']} {package.version} wants Python {wanted}"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_are_short_clean_and_parameterised(file):
    node = read_notebook(file)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert len(code) <= 12
    assert node.cells[0].cell_type == "markdown" and node.cells[0].source.startswith("# ")
    assert code[0].metadata.get("tags") == ["parameters"]
    assert node.metadata.kernelspec.name == "python3"
    for parameter in parameters_of(node, file):
        assert parameter.type != "Any" and parameter.help, f"{parameter.name} wants a type and a help"
    for cell in code:
        assert not cell.outputs and cell.execution_count is None
        kinds = {type(part).__name__ for part in ast.walk(ast.parse(cell.source))}
        assert not kinds & {"FunctionDef", "ClassDef", "AsyncFunctionDef"}
    assert nbformat.validate(node) is None


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_machine():
    # A home folder, this checkout's place, a package mirror: none of them is anybody else's.
    pattern = re.compile(r"/(home|Users)/[a-z]|/root/|/opt/(pypi|wheels)|" + re.escape("/work" + "/"))
    found = []
    for file in tracked():
        if file.name == Path(__file__).name or file.stat().st_size > 2_000_000:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {m.group()}" for m in pattern.finditer(text)]
    assert found == []


def test_nothing_generated_is_tracked():
    names = [str(file.relative_to(ROOT)) for file in tracked()]
    assert not [
        n for n in names if n.startswith(("runs/", ".venv/")) or (n.startswith("reports/") and n != "reports/README.md")
    ]
    assert not [n for n in names if "__pycache__" in n or (n.endswith((".pyc", ".html")) and n != EXAMPLE)]


def test_the_readme_s_pictures_and_its_example_are_there_and_small():
    text = (ROOT / "README.md").read_text()
    shown = {ROOT / name for name in re.findall(r"docs/pictures/\w+\.png", text)}
    assert shown == set((ROOT / "docs/pictures").glob("*")) and len(shown) >= 7
    assert all(file.stat().st_size < 150_000 for file in shown)
    drawn = (ROOT / "docs/pictures.py").read_text()
    assert all(f'"{file.stem}"' in drawn for file in shown)
    example = (ROOT / EXAMPLE).read_text()
    assert (
        EXAMPLE in text and len(example) < 1_000_000 and not re.search(r"<script[^>]*\ssrc=|<link[^>]*href=", example)
    )


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_studies_are_right(file, monkeypatch):
    from mentorlib.lab.batch.plan import plan

    monkeypatch.chdir(ROOT)
    study, stages = plan(file)
    assert study["question"] and stages


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda f: f.name)
def test_commands_on_a_page_fit_the_notebooks(page, monkeypatch):
    from mentorlib.lab.batch.parameters import check_parameters

    monkeypatch.chdir(ROOT)
    text = page.read_text().replace("\\\n", " ")
    for notebook, rest in re.findall(r"python -m mentorlib run (notebooks/\S+\.ipynb)([^\n`]*)", text):
        words = dict(word.split("=", 1) for word in shlex.split(rest, comments=True))
        check_parameters(notebook, words, text=True)


def test_the_examples_on_pages_are_right(tmp_path, monkeypatch):
    from mentorlib.lab.batch.plan import plan

    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    (study,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/study.md").read_text(), re.DOTALL)
    Path("mine.yaml").write_text(study)
    assert len(plan(Path("mine.yaml"))[1]) == 6
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own.md").read_text(), re.DOTALL)
    file = tmp_path / "example.py"  # tools are read from their file
    file.write_text("\n".join(examples))
    ran = subprocess.run([sys.executable, str(file)], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.splitlines()[0] == "12", ran.stderr
    assert (tmp_path / "runs/rooms/tasks.parquet").exists()


def test_ci_runs_make_test():
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111 and "make test" in ci.read_text()
    assert str(ROOT) not in (ROOT / "Makefile").read_text()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_licence_is_the_same_everywhere():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"] and "9. Accepting Warranty" in text
    assert project()["license"] == "Apache-2.0" and project()["license-files"] == ["LICENSE"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == "Apache-2.0"


def test_citation_and_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert citation["version"] == project()["version"]
    (paper,) = citation["references"]
    assert "2510.18383" in paper["doi"] and all(name["family-names"] for name in paper["authors"])
    assert re.search(
        rf"^## {re.escape(project()['version'])}, \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_package_data_is_there():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = tool["package-data"]["mentorlib"]
    assert "py.typed" in patterns
    for pattern in patterns:
        assert list((ROOT / "mentorlib").glob(pattern)), f"{pattern} names no file of the package"
    assert (ROOT / project()["readme"]).is_file()


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Dockerfile"])
def test_pages_name_targets_that_make_has(file):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    text = (ROOT / file).read_text()
    named = set(re.findall(r"`make (\w+)`|^make (\w+)", text, re.M))
    assert {a or b for a, b in named} <= targets
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), f"{file} links to {link}"


def test_the_container_sets_up_as_make_does():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("FROM")]
    assert re.fullmatch(
        r"FROM python:3\.1[1-9]-slim", base
    )  # of the default registry, and a Python that pyproject allows
    assert "RUN make .venv/.installed" in lines  # constraints.txt's versions, by the Makefile's own rule
    assert {".venv", "runs", ".git"} <= set((ROOT / ".dockerignore").read_text().split())


@pytest.mark.slow
def test_the_api_reference_has_the_public_names(tmp_path):
    import mentorlib

    pytest.importorskip("pdoc", reason="make docs needs pdoc, which the dev packages bring")
    code = (
        "import pathlib, sys; sys.path.insert(0, 'docs'); import reference; reference.main(pathlib.Path(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:pdoc", "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "mentorlib.html").read_text()
    for name in mentorlib.__all__:
        assert f'id="{name}"' in page and getattr(mentorlib, name).__doc__, f"{name} is not documented"
    assert (tmp_path / "mentorlib/rewards/reward.html").exists()
    assert "/docs/api/" in (ROOT / ".gitignore").read_text().split()
