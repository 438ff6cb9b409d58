"""Draw the README's pictures from the reports of the quick study: ``make study pictures``; needs Chromium.

Each picture is a part of a page as it is, so that the pictures change with the pages. The report of 00 becomes the
example in docs/example.
"""

import io
import shutil
from base64 import b64encode
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


def part(page: Page, address: str, selector: str) -> bytes:
    """The first visible part of a page that a selector finds, as a PNG."""
    page.goto(address)
    found = page.locator(selector).locator("visible=true").first
    found.scroll_into_view_if_needed()
    return found.screenshot()


def side_by_side(page: Page, *pngs: bytes) -> bytes:
    """Pictures beside each other, as one."""
    images = "".join(f"<img src='data:image/png;base64,{b64encode(png).decode()}'>" for png in pngs)
    page.set_content(f"<body style='margin:0;display:inline-flex;gap:24px;align-items:flex-start'>{images}")
    return page.locator("body").screenshot()


def save(png: bytes, name: str, width: int = 0) -> None:
    """Write a picture with 64 colours, a third of the size; with a width, as a thumbnail of its upper part."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
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
    pages = study.resolve().as_uri()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 760, "height": 1000})
        page.set_default_timeout(120_000)
        save(part(page, EXAMPLE.as_uri(), "article"), "00_tour", 320)
        for name, stage in PAGES.items():
            save(part(page, f"{pages}/{stage}.html", FIGURE), name, 320)
        save(part(page, f"{pages}/index.html", FIGURE), "figure")
        table = part(page, f"{pages}/compare.html", ".jp-OutputArea table")
        transcript = part(page, f"{pages}/trajectories.html?compare#?method=grpo-exact&suite=longer", "main")
        save(side_by_side(page, table, transcript), "study")
        chromium.close()


def main() -> None:
    tour = run_notebook(ROOT / "notebooks/00_tour.ipynb", on_line=lambda line: None)
    shutil.copyfile(tour, EXAMPLE)
    draw(ROOT / "reports/quick")


if __name__ == "__main__":
    main()
