"""Reports in one folder: scripts and styles are stored once, and the pages link to each other."""

import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

from ...runs.files import write_text
from .html import LINKS

SHARED = 100_000  # characters from which on a script or style lies beside the pages: plotly's has 5 million
_TAGS = {"script": ("js", '<script src="{}"></script>'), "style": ("css", '<link rel="stylesheet" href="{}">')}


def share_scripts(page: str, folder: Path) -> str:
    """A page whose large scripts and styles are in ``script-<hash>.js`` and ``style-<hash>.css`` of its folder, which
    all pages that have them share."""

    def share(match: re.Match[str]) -> str:
        tag, text = match[1], match[2]
        if len(text) < SHARED:
            return match[0]
        ending, link = _TAGS[tag]
        file = folder / f"{tag}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.{ending}"
        if not file.exists():
            write_text(file, text)
        return link.format(file.name)

    return re.sub(r'<(script|style)(?: type="text/css")?>(.*?)</\1>', share, page, flags=re.DOTALL)


def add_links(page: str, links: Sequence[tuple[str, str]]) -> str:
    """A page of ``to_html`` with links at its top, each as (address, text)."""
    inside = " · ".join(f'<a href="{html.escape(address)}">{html.escape(text)}</a>' for address, text in links)
    return page.replace(LINKS, f'<nav class="report-links" aria-label="Study">{inside}</nav>', 1)
