"""Draw the README's pictures from the reports of the quick study: ``make study pictures``; needs Chromium.

Each picture is a part of a page as it is, so that the pictures change with the pages.
"""

import io
import shutil
from base64 import b64encode
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mentorlib import run_notebook

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
STUDY = ROOT / "reports/quick"
# Picture of a notebook -> the page, and what of it is shown.
PARTS = {
    "01_build_data": (STUDY / "data.html", ".plot"),
    "02_train": (STUDY / "exact.html", ".plot"),
    "03_rewards": (STUDY / "rewards.html", ".plot"),
    "04_errors": (STUDY / "errors.html", ".plot"),
    "05_compare": (STUDY / "compare.html", ".plot"),
}


def part(page: Page, file: Path, selector: str, address: str = "") -> bytes:
    """The first visible part of a page that a selector finds, as a PNG."""
    page.goto(file.as_uri() + address)
    page.wait_for_timeout(3000)  # figures are drawn after the page is loaded
    return page.locator(selector).locator("visible=true").first.screenshot()


def save(png: bytes, name: str, width: int = 0, colours: int = 64) -> None:
    """Write a picture with few colours, which is a third of the size."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
        image = image.crop((0, 0, width, min(image.height, width * 3 // 4)))
    file = PICTURES / f"{name}.png"
    image.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")


def side_by_side(page: Page, *pngs: bytes) -> bytes:
    """Pictures beside each other, as one."""
    images = "".join(f"<img src='data:image/png;base64,{b64encode(png).decode()}'>" for png in pngs)
    page.set_content(f"<body style='margin:0;display:inline-flex;gap:24px;align-items:flex-start'>{images}")
    page.wait_for_timeout(500)
    return page.locator("body").screenshot()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    tour = run_notebook(ROOT / "notebooks/00_tour.ipynb", on_line=lambda line: None)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 760, "height": 1000})
        save(part(page, tour.resolve(), "article"), "00_tour", 320)
        for name, (file, selector) in PARTS.items():
            save(part(page, file, selector), name, 320)
        save(part(page, STUDY / "index.html", ".plot"), "figure")
        table = part(page, STUDY / "compare.html", "table")
        transcript = part(page, STUDY / "trajectories.html", "main", "?compare#?method=grpo-exact&suite=longer")
        save(side_by_side(page, table, transcript), "study")
        chromium.close()


if __name__ == "__main__":
    main()
