"""Tasks from published data sets and from a user's folder (docs/data.md); each file here is one source.

``read_sources(["bfcl:data/bfcl"])`` gives tasks with references, and the rejected rows with their reasons.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...core import InputError, did_you_mean
from ...task import Pair
from ..check_references import RejectedRow
from . import bfcl, gsm8k, math500, mentor, multihop, own, word_problems
from .rows import hold_out

Reader = Callable[[Path], tuple[list[Pair], list[RejectedRow]]]

# Name -> (reader of a file or folder, what the data set's card says).
SOURCES: dict[str, tuple[Reader, dict[str, str]]] = {
    "gsm8k": (gsm8k.read_gsm8k, gsm8k.ABOUT),
    "gsm8k_test": (gsm8k.read_gsm8k_test, gsm8k.ABOUT_TEST),
    "mawps": (word_problems.read_mawps, word_problems.ABOUT_MAWPS),
    "mawps_test": (partial(word_problems.read_mawps, suite="mawps_test", split="eval"), word_problems.ABOUT_MAWPS),
    "svamp": (word_problems.read_svamp, word_problems.ABOUT_SVAMP),
    "math500": (math500.read_math500, math500.ABOUT),
    "bfcl": (bfcl.read_bfcl, bfcl.ABOUT),
    "hotpotqa": (multihop.read_hotpotqa, multihop.ABOUT_HOTPOTQA),
    "bamboogle": (multihop.read_bamboogle, multihop.ABOUT_BAMBOOGLE),
    "mentor": (mentor.read_mentor, mentor.ABOUT),
    "own": (own.read_own, own.ABOUT),
}


def split_source(source: str) -> tuple[str, str]:
    """The name and the path in ``name:path``; InputError for an unknown name, or none but gsm8k's path."""
    name, _, path = source.partition(":")
    if name not in SOURCES:
        meant = did_you_mean(name, SOURCES)
        raise InputError(f"source {source!r}: {meant}write name:path, with one of {', '.join(SOURCES)}")
    if not path and name != "gsm8k":
        raise InputError(f"source {source!r}: add its path: {name}:PATH")
    return name, path


def read_sources(
    sources: Sequence[str], n_eval: int = 500, downloads: str | Path = "runs"
) -> tuple[list[Pair], list[RejectedRow], list[dict[str, Any]]]:
    """Read sources, each written ``name:path``; ``gsm8k`` alone is looked for in ../shared/data and on the hub.

    Args:
        sources: names in SOURCES with the file or folder to read.
        n_eval: rows to hold out of each source with training rows (gsm8k, mawps, mentor, own), at most a fifth.
        downloads: folder for files from the hub.

    Returns:
        Pairs; rejected rows; and for each source the entry of the data set's card: source, files, origin, licence, what
        is simplified, rows, read, and rejected by reason.

    Raises:
        InputError: an unknown source, one without a path, or one that cannot be read.
    """
    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    cards: list[dict[str, Any]] = []
    for source in sources:
        name, given = split_source(source)
        path = Path(given) if given else gsm8k.find_training_file(Path(downloads))
        reader, about = SOURCES[name]
        usable, unusable = reader(path)
        pairs += hold_out(usable, n_eval)
        rejected += unusable
        cards.append(
            {
                "source": source,
                "files": [str(file) for file in source_files(path)],
                **about,
                "rows": len(usable) + len(unusable),
                "read": len(usable),
                "rejected": dict(Counter(r.reason for r in unusable).most_common()),
            }
        )
    return pairs, rejected, cards


def source_files(path: Path) -> list[Path]:
    """The files of a source: the path itself, or the data files in its folder."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".json", ".jsonl", ".py") and file.is_file())
