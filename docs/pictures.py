"""Draw the README's pictures from the reports of the quick study: ``make study pictures``; needs Chromium.

Each picture is a part of a page as it is, so that the pictures change with the pages. The report of 00 becomes the
example in docs/example. The pictures of 06 and 90 are drawn again if studies/tune.yaml and 90 were run, which takes
longer than the quick study.
"""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mentorlib import run_notebook

ROOT = Path(__file__).parents[1]
PICTURES, EXAMPLE = ROOT / "docs/pictures", ROOT / "docs/example/tour.html"
FIGURE = ".plot:has(.main-svg)"
# Picture of a notebook -> its page in the study.
PAGES = {"01_build_data": "data", "02_train": "exact", "03_rewards": "rewards", "04_errors": "errors"}
PAGES |= {"05_compare": "compare"}
LONGER = {"06_tune": ROOT / "reports/tune/tune.html", "90_student": ROOT / "runs/student/report.html"}


def has(name: str) -> str:
    """An XPath condition: the element has this class."""
    return f"contains(concat(' ', @class, ' '), ' {name} ')"


def part(page: Page, selector: str) -> Image.Image:
    """The first visible part of the page that a selector finds."""
    png = page.locator(selector).locator("visible=true").first.screenshot()
    return Image.open(io.BytesIO(png)).convert("RGB")


def composed(table: Image.Image, figure: Image.Image, transcript: Image.Image) -> Image.Image:
    """One picture: the table above the figure, and the transcript beside both."""
    width = max(table.width, figure.width)
    height = max(table.height + 24 + figure.height, transcript.height)
    whole = Image.new("RGB", (width + 24 + transcript.width, height), "white")
    whole.paste(table, (0, 0))
    whole.paste(figure, (0, table.height + 24))
    whole.paste(transcript, (width + 24, 0))
    return whole


def save(image: Image.Image, name: str, width: int = 0) -> None:
    """Write a picture with 64 colours, a third of the size; with a width, as a thumbnail of its upper part."""
    if width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        image = image.crop((0, 0, width, min(image.height, width * 3 // 4)))
    file = PICTURES / f"{name}.png"
    image.quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


def draw(study: Path) -> None:
    """Draw all pictures.

    Args:
        study: the folder of a study's pages with stages named as in studies/quick.yaml.
    """
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 760, "height": 1000})
        page.set_default_timeout(600_000)  # five million characters of plotly, on a busy machine
        page.goto(EXAMPLE.as_uri())
        save(part(page, "article"), "00_tour", 320)
        reports = {name: file for name, file in LONGER.items() if file.exists()}
        reports |= {name: study / f"{stage}.html" for name, stage in PAGES.items()}
        for name, report in reports.items():
            page.goto(report.resolve().as_uri(), wait_until="commit")
            save(part(page, FIGURE), name, 320)
        accuracy = page.locator("h2#Accuracy")  # of the last page, which compares
        accuracy.evaluate("heading => heading.scrollIntoView()")  # figures are drawn when they are reached
        figure = part(page, f"xpath=//h2[@id='Accuracy']/following::*[{has('plot')}][.//*[{has('main-svg')}]]")
        page.set_viewport_size({"width": 960, "height": 1000})  # the table's columns
        table = part(page, "xpath=//h2[@id='Accuracy']/following::table[.//td//a]")
        page.set_viewport_size({"width": 760, "height": 1000})
        shown = "method=grpo-exact&suite=longer"
        page.goto(f"{study.resolve().as_uri()}/trajectories.html?compare#?{shown}", wait_until="commit")
        save(composed(table, figure, part(page, "main")), "study")
        chromium.close()


def main() -> None:
    tour = run_notebook(ROOT / "notebooks/00_tour.ipynb", on_line=lambda line: None)
    shutil.copyfile(tour, EXAMPLE)
    draw(ROOT / "reports/quick")


if __name__ == "__main__":
    main()
