"""Pages and JupyterLab in a real browser: Chromium, headless, driven by Playwright."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import synthetic
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from tiny import notebook

from mentorlib.lab import analysis
from mentorlib.lab.batch.notebook import run_notebook
from mentorlib.lab.batch.plan import Stage, StageStatus
from mentorlib.lab.batch.study_page import write_study_page
from mentorlib.lab.report import viewer

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
NOTEBOOKS = Path(__file__).parents[3] / "notebooks"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab without network that fails the test for a script error, a dialog, or a request beyond the disk."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.set_default_timeout(120_000)  # a machine on which a study runs is slow
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else trouble.append(r.url))
    yield page
    assert trouble == []
    context.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of five methods; the first row of one file is as hostile as a row can be."""
    root = tmp_path_factory.mktemp("lab") / "runs"
    synthetic.make_runs(root, tasks=12, steps=3)
    file = root / "base" / "eval" / "longer.jsonl"
    lines = file.read_text().splitlines()
    bad = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)> [a](javascript:alert(3)) \x1b[31m\u202e"
    row = synthetic.row("gave_up", __import__("random").Random(0), 1, "longer")
    row |= {"question": f"{bad} @chunks@", "task_id": bad}
    row["messages"][-1]["content"] = bad + "x" * 2_000_000
    row["calls"][0]["arguments"] = {bad: bad}
    file.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    return root


def serious(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:160]}" for v in violations if v["impact"] in ("serious", "critical")]


def wait_for_text(tab: Any, selector: str, text: Any) -> None:
    """Wait for a text. The page forbids eval, and with it the polling of wait_for_function."""
    playwright.expect(tab.locator(selector).first).to_have_text(text, timeout=30_000)


def test_the_trajectories_page(tab: Any, root: Path, tmp_path: Path) -> None:
    file = viewer.write_trajectories_of_runs(tmp_path / "t.html", [], root)
    assert file.stat().st_size < 2_000_000
    tab.goto(file.as_uri() + "#base/eval/longer.jsonl:1")
    tab.wait_for_selector("main h2")
    text = tab.inner_text("main")
    assert "<script>alert(1)</script>" in text and "\\u202e" in text and "more characters" in text
    assert tab.inner_text("main h2")[2:].startswith("gave up") and not tab.query_selector("main script, main img")
    assert serious(tab) == []
    tab.select_option("select[name=method]", label="sft")
    tab.select_option("select[name=outcome]", label="correct")
    rows = analysis.load.evaluations(root=root)
    wanted = len(rows[(rows["method"] == "sft") & (rows["outcome"] == "correct")])
    wait_for_text(tab, "#count", re.compile(f"^{wanted} of"))
    first = tab.inner_text("main .facts")
    tab.evaluate("document.activeElement.blur()")  # keys work wherever the focus is
    tab.keyboard.press("ArrowDown")
    playwright.expect(tab.locator("main .facts").first).not_to_have_text(first, use_inner_text=True)
    link = tab.get_attribute("main .bar a", "href")
    assert re.fullmatch(r"#sft/eval/\w+\.jsonl:\d+", link) and tab.url.endswith(link)
    tab.goto(file.as_uri() + "#?method=base&outcome=gave%20up&suite=longer")
    wait_for_text(tab, "select[name=method] option:checked", "base")
    tab.evaluate("location.hash = '#sft/eval/calculator.jsonl:1'")  # filters hide it, so they go
    wait_for_text(tab, "#count", re.compile("^(\\S+) of \\1 "))
    playwright.expect(tab.locator("main .facts").first).to_contain_text("sft/eval/calculator.jsonl:1")
    tab.select_option("select[name=method]", label="base")
    tab.click("text=show all")
    wait_for_text(tab, "#count", re.compile("^(\\S+) of \\1 "))
    tab.set_viewport_size({"width": 390, "height": 800})
    playwright.expect(tab.locator("select[name=tool]")).to_be_hidden()  # the filters are folded on a phone
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.press("summary", "Enter")
    tools = [int(n) for n in re.findall(r" \((\d+)\)", tab.inner_text("select[name=tool]"))]
    assert len(tools) > 3 and tools == sorted(tools, reverse=True)


def test_trajectories_are_searched_sorted_and_set_side_by_side(tab: Any, root: Path, tmp_path: Path) -> None:
    rows = analysis.load.trajectories(root=root)
    file = viewer.write_trajectories(tmp_path / "t.html", rows, "T")
    tab.goto(file.as_uri())
    tab.wait_for_selector("main h2")
    assert tab.query_selector_all("main .box small:has-text('call')") and "<tool_call>" not in tab.inner_text("main")
    tab.keyboard.press("/")
    tab.keyboard.type("Let me see see")  # what a student wrote
    cut = sum(row["response"].startswith("Let me see see") for row in rows.to_dict("records"))
    wait_for_text(tab, "#count", re.compile(f"^{cut} of"))
    tab.check("main label:has-text('raw text') input")
    wait_for_text(tab, "main .box:has-text('raw text') pre", "Let me see see see")
    assert "search=Let%20me" in tab.url or tab.url.endswith(tab.get_attribute("main .bar a", "href"))
    tab.goto(f"{file.as_uri()}#?phase=training&sort=-reward")
    most, least = rows["total"].max(), rows["total"].min()
    wait_for_text(tab, "#list .row >> nth=0", re.compile(f"reward {most:g}"))
    tab.select_option("select[name=sort]", value="reward")
    wait_for_text(tab, "#list .row >> nth=0", re.compile(f"reward {least:g}"))
    tab.goto(f"{file.as_uri()}#task=sft/eval/longer.jsonl:3")
    same = rows[(rows["task_id"] == "longer-2") & rows["step"].isna()]
    right = int(same["correct"].eq(True).sum())
    wait_for_text(tab, "main h2", f"longer-2: {right} of {len(same)} methods right")
    assert [h.inner_text()[2:].split(":")[0] for h in tab.query_selector_all("main h3")] == list(same["method"])
    assert serious(tab) == []
    tab.keyboard.press("ArrowRight")
    wait_for_text(tab, "main h2", re.compile("^longer-3: "))
    changed = analysis.comparison.changed(analysis.load.evaluations(root=root), [("sft", "base")])
    right = int((changed["verdict"] == "right").sum())
    assert 0 < right < len(changed)
    tab.goto(f"{file.as_uri()}#?method=sft&against=base&phase=evaluation&verdict=right")
    wait_for_text(tab, "#count", re.compile(f"^{right} of"))
    assert tab.is_checked("main label:has-text('this task under') input")  # both are read beside each other
    tab.select_option("select[name=verdict]", label="all")
    wait_for_text(tab, "#count", re.compile(f"^{len(changed)} of"))


def test_ten_thousand_trajectories_fit_one_page(tab: Any, root: Path, tmp_path: Path) -> None:
    rows = analysis.load.trajectories(root=root)
    many = rows.sample(10_000, replace=True, random_state=0, ignore_index=True)
    many["where"] = [f"r/eval/a.jsonl:{i}" for i in range(1, len(many) + 1)]
    file = viewer.write_trajectories(tmp_path / "many.html", many, "Many")
    assert file.stat().st_size < 8_000_000
    tab.goto(file.as_uri())
    tab.wait_for_selector("main h2")
    assert tab.inner_text("#count") == "10,000 of 10,000 trajectories"
    assert len(tab.query_selector_all("#list .row")) < 100  # only those in sight exist


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report(tab: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.chdir(root.parent)
    report = root / "errors" / "report.html"
    if not report.exists():
        run_notebook(NOTEBOOKS / "04_errors.ipynb", {"run": "errors"}, on_line=lambda line: None)
    assert report.stat().st_size < 8_000_000
    tab.emulate_media(color_scheme=scheme)
    tab.goto(report.as_uri())
    tab.wait_for_selector(".plotly-graph-div .main-svg")
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert "alert(1)" in tab.inner_text("body") and serious(tab) == []
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    # On paper a table is whole: nothing can be scrolled there.
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 681, "height": 1000})
    assert max(tab.evaluate("[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)")) <= 681
    tab.wait_for_timeout(500)  # while figures are drawn for the new width; on paper each fits on a page with its title
    heights = "[...document.querySelectorAll('.plot')].map(plot => plot.clientHeight)"
    assert max(tab.evaluate(heights)) > 940
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert max(tab.evaluate(heights)) <= 940
    tab.emulate_media(media="screen")
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.click("a[href*='outcome=gave%20up']")
    tab.wait_for_selector("main h2")
    assert "trajectories.html" in tab.url and tab.inner_text("main h2")[2:].startswith("gave up")


def test_many_trajectories_lie_in_files_beside_the_page(
    tab: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "CHUNK", 10)
    monkeypatch.setattr(viewer, "HEAVY", 3_000)
    rows = analysis.load.evaluations(["sft", "grpo-exact"], root)
    file = viewer.write_trajectories(tmp_path / "t.html", rows, "T", {"mine": {"sft": "taught"}})
    beside = sorted(tmp_path.glob("t-*.js"))
    assert len(beside) > 1 and file.stat().st_size < 40_000
    last = rows.iloc[-1]
    tab.goto(f"{file.as_uri()}#{last['where']}")
    tab.wait_for_selector("main h2")
    assert last["where"] in tab.inner_text("main .facts") and tab.inner_text("main h2")[2:].startswith(last["outcome"])
    tab.goto(f"{file.as_uri()}?mine#?method=taught&phase=evaluation")  # a report's name for the page's sft
    wait_for_text(tab, "#count", "36 of 36 trajectories")
    assert tab.inner_text("main .facts").startswith("sft") and tab.input_value("select[name=method]") != ""
    beside[-1].unlink()
    tab.goto(f"{file.as_uri()}#{last['where']}")
    tab.wait_for_selector(f"main :text('{beside[-1].name} is missing')")


# ---- a study's page


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of a study of four methods; the name of one, the question and the error of a stage are hostile."""
    hostile = "</script><img src=x onerror=alert(7)>"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        runs = synthetic.make_runs(Path("runs"), 12, 3, ("base", "sft", "grpo-sparse", "grpo-exact"))
        info = Path("runs/grpo-sparse/run.json")
        info.write_text(info.read_text().replace('"sparse"', json.dumps(hostile)))
        run_notebook(NOTEBOOKS / "05_compare.ipynb", {"run": "compare", "runs": runs}, on_line=lambda line: None)
        stages = [Stage(run, NOTEBOOKS / "02_train.ipynb", {"run": run}, (), run, None) for run in runs]
        stages.append(Stage("bad", NOTEBOOKS / "02_train.ipynb", {"data": hostile}, (), "bad", None))
        stages.append(Stage("compare", NOTEBOOKS / "05_compare.ipynb", {"runs": runs}, tuple(runs), "compare", None))
        statuses = [StageStatus(stage, state="done") for stage in stages]
        statuses[-2].state, statuses[-2].error = "failed", hostile
        folder = Path("reports/s").absolute()
        folder.mkdir(parents=True)
        yield write_study_page({"name": "s", "question": f"Which {hostile}?"}, statuses, folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_study_s_page(tab: Any, story: Path, scheme: str) -> None:
    (plotly,) = [file for file in story.parent.glob("script-*.js") if "* plotly.js v" in file.read_text()[:100]]
    pages = [page.read_text() for page in story.parent.glob("*.html") if "trajectories" not in page.name]
    assert len(pages) == 2 and all(f'<script src="{plotly.name}"></script>' in page for page in pages)
    assert max(map(len, pages)) < 1_000_000
    tab.emulate_media(color_scheme=scheme)
    tab.goto(story.as_uri())
    tab.wait_for_selector("#figure-4 .main-svg")
    assert serious(tab) == [] and not tab.query_selector("main img")
    plots = tab.query_selector_all(".plot")
    widths = [plot.evaluate("plot => [plot.querySelector('svg').clientWidth, plot.clientWidth]") for plot in plots]
    assert len(widths) == 4 and all(drawn <= room for drawn, room in widths)  # no figure lies beyond its column
    assert tab.query_selector("#figure-1 > p")  # a link to a figure shows its title
    text = tab.inner_text("main")
    assert text.count("onerror=alert(7)") > 5 and "1 of 6 stages failed" in text
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_function("document.querySelector('#figure-1 .main-svg').clientWidth < 390")  # drawn again
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    # A number opens the trajectories behind it: the evaluated ones, also of the method with the hostile name.
    for name in ("sft", "onerror"):
        tab.goto(story.as_uri())
        tab.click(f"tr:has(th:text('{name}')) td a[href*='phase=evaluation'] >> nth=0")
        wait_for_text(tab, "#count", re.compile("^12 of "))
        assert "/eval/calculator.jsonl" in tab.inner_text("main .facts") and name in tab.inner_text("main .facts")


def test_a_report_of_a_study_leads_on_and_its_tables_are_saved(tab: Any, story: Path) -> None:
    tab.goto((story.parent / "compare.html").as_uri())
    assert tab.title().startswith("compare: base, sft, grpo-sparse, grpo-exact · Which method")
    tab.evaluate("window.copied = ''; navigator.clipboard.writeText = async text => { window.copied = text; }")
    table = "table:has(th:text-is('calculator')):has(td a[href*='phase=evaluation'])"
    with tab.expect_download() as saved:
        tab.click(f"{table} + .table-export button:text('CSV')")
    lines = saved.value.path().read_text().splitlines()
    assert saved.value.suggested_filename.startswith("compare-table-") and len(lines) == 5
    assert lines[0].startswith('"","calculator"') and lines[2].startswith('"sft","')
    tab.click(f"{table} + .table-export button:text('Copy')")
    tab.wait_for_selector("button:text('Copied')")
    assert tab.evaluate("window.copied.split('\\n')[2].split('\\t')[0]") == "sft"
    with tab.expect_download() as saved:  # a table that itables draws, of the planned contrasts
        tab.click(".dt-container:has(th:has-text('p_holm')) button:has-text('CSV')")
    assert re.fullmatch(r"compare-table-\d+\.csv", saved.value.suggested_filename)
    assert saved.value.path().read_text().startswith('"method","against","difference"')
    tab.click("nav[aria-label='Contents'] a >> nth=0")
    assert tab.url.endswith(tab.get_attribute("nav[aria-label='Contents'] a >> nth=0", "href"))
    tab.click("nav[aria-label='Study'] a:text('study s')")
    tab.wait_for_selector("h1:text('Study s')")


def test_a_study_on_paper(tab: Any, story: Path) -> None:
    tab.emulate_media(media="print", color_scheme="dark")
    tab.goto(story.as_uri())
    tab.wait_for_selector("#figure-4 .main-svg")
    tab.evaluate(
        "addEventListener('beforeprint', () => window.drawn = [...document.querySelectorAll('.main-svg')]"
        ".map(svg => svg.clientWidth))"
    )
    assert len(tab.pdf(format="A4")) > 50_000
    assert max(tab.evaluate("window.drawn")) == 640  # A4 less the margins holds 681
    tab.set_viewport_size({"width": 681, "height": 1000})
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 681
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


# ---- JupyterLab


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[str]:
    """The address of a JupyterLab on the folder of ``root``, as ``mentor lab`` opens it."""
    (root.parent / "README.md").write_text("# The way in\n\n[the tour](notebooks/tour.ipynb)\n")
    notebook(root.parent / "notebooks/tour.ipynb", "n: int = 1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--no-browser", f"--port={port}", "--IdentityProvider.token=t", "--allow-root"]
    settings = {**os.environ, "PYTHONPATH": str(NOTEBOOKS.parent), "JUPYTER_CONFIG_DIR": str(root.parent / "config")}
    server = subprocess.Popen(
        [sys.executable, "-m", "mentorlib", "lab", *words],
        env=settings,
        cwd=root.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(3_000):
        assert server.poll() is None
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/lab/tree"
    server.terminate()
    server.wait()


def opened(browser: Any, lab: str, name: str) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(180_000)
    page.goto(f"{lab}/{name}?token=t&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector("text=/\\| Idle/")
    page.click(".lm-MenuBar-item:has-text('Run')")
    page.click(".lm-Menu-item:has-text('Run All Cells') >> nth=0")
    return page


@pytest.mark.slow
def test_jupyterlab_opens_at_the_readme(browser: Any, lab: str) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(180_000)
    page.goto(lab.replace("/lab/tree", "/?token=t"))
    page.click(".jp-MarkdownViewer a:has-text('the tour')")  # drawn, not as source
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    assert page.url.endswith("/lab/tree/notebooks/tour.ipynb")
    page.context.close()


@pytest.mark.slow
def test_widgets_in_jupyterlab(browser: Any, lab: str, root: Path) -> None:
    notebook(
        root.parent / "widgets.ipynb",
        "n: int = 1",
        "from mentorlib.lab import analysis\nfrom mentorlib.lab.report import widgets\n"
        "rows = analysis.load.evaluations()\nprint('read', len(rows))",
        "widgets.playground(rows[rows['outcome'] == 'correct'].iloc[0])",
        "counts = rows.groupby(['outcome', 'method']).size().unstack(fill_value=0)\n"
        "widgets.linked_table(counts, rows='outcome', columns='method', trajectories=rows)",
        "widgets.side_by_side(rows)",
    )
    page = opened(browser, lab, "widgets.ipynb")
    page.wait_for_selector("button[title='read: gave up, base']")
    assert not page.query_selector("[data-mime-type='application/vnd.jupyter.error']")
    page.fill("textarea", "I do not know.<|im_end|>")
    page.keyboard.press("Tab")
    page.wait_for_selector("text=no answer in a box")
    page.click("button[title='read: gave up, base']")  # a number of a table
    page.wait_for_selector("text=that fit: gave up, base")
    page.wait_for_selector("article section >> nth=4")  # five methods side by side
    page.context.close()


@pytest.mark.slow
def test_an_interrupt_lets_the_step_at_hand_finish(browser: Any, lab: str, root: Path) -> None:
    notebook(
        root.parent / "stop.ipynb",
        "steps: int = 400",
        "import time\nfrom mentorlib import Run\nfrom mentorlib.lab.report import live\n"
        "record = Run('stopped', steps=steps)\n"
        "follow = live.Live(record)",
        "done = 0\nstop = False\nwhile done < steps and not stop:\n    time.sleep(0.1)\n    done += 1\n"
        "    record.log(done, reward=done / steps, accuracy=0.5)\n"
        "    stop = follow(done, steps, {})\nprint('ended', done)",
    )
    page = opened(browser, lab, "stop.ipynb")
    page.wait_for_selector(".jp-OutputArea .main-svg")  # the live figure
    page.click("button[title*='nterrupt'], [data-jp-item-name='interrupt']")
    page.wait_for_selector("text=/ended \\d+/")
    page.wait_for_selector(".jp-OutputArea .gtitle:has-text('Ended after step')")  # drawn a moment later
    done = json.loads((root / "stopped" / "results.json").read_text())["stopped_at_step"]
    assert 0 < done["value"] < 400 and done["n"] == 400
    page.context.close()


@pytest.mark.slow
def test_every_notebook_runs_all_without_an_error(browser: Any, lab: str, root: Path) -> None:
    tiny = {"steps": 2, "groups": 2, "group_size": 2, "max_tokens": 64, "n_eval": 4, "eval_suites": ["calculator"]}
    given = {  # those that read made-up runs first: the others add runs of their own
        "03_rewards": {},
        "04_errors": {},
        "05_compare": {},
        "06_tune": {"runs": ["sft", "sft-fast"]},
        "index": {},
        "00_tour": {},
        "01_build_data": {"n_train": 30, "n_eval": 6, "sources": []},
        "02_train": tiny,
        "90_student": {"steps": 4, "examples_per_step": 1, "n_eval": 2, "n_groups": 2, "suites": ["calculator"]},
    }
    assert set(given) == {file.stem for file in NOTEBOOKS.glob("*.ipynb")}
    shutil.copytree(root / "sft", root / "sft-fast")  # a grid for 06
    info = json.loads((root / "sft-fast/run.json").read_text())
    info["parameters"]["learning_rate"] = 3e-4
    (root / "sft-fast/run.json").write_text(json.dumps(info))
    for name, parameters in given.items():
        node = parameterize_notebook(load_notebook_node(str(NOTEBOOKS / f"{name}.ipynb")), parameters)
        node.cells.append(nbformat.v4.new_code_cell(f"open('{name}.done', 'w').close()"))
        nbformat.write(node, root.parent / "notebooks" / f"{name}.ipynb")  # the kernel starts there, below the runs
        page = opened(browser, lab, f"notebooks/{name}.ipynb")
        start = time.monotonic()
        while not (root.parent / f"{name}.done").exists():
            wrong = page.query_selector("[data-mime-type='application/vnd.jupyter.error']")
            assert wrong is None, f"{name}: {wrong.inner_text()}"
            assert time.monotonic() - start < 300, f"{name} did not come to its end"
            page.wait_for_timeout(300)
        page.context.close()
