"""Where tasks come from that nobody here invented: published data sets, and a user's own (docs/data.md).

``read("bfcl:data/bfcl")`` gives tasks with references and the rows rejected by name. Each file here is one source.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...core import InputError
from ...task import Pair
from ..check_references import RejectedRow
from . import bfcl, gsm8k, math500, mentor, multihop, own

Read = Callable[[Path, int], tuple[list[Pair], list[RejectedRow]]]

# name -> (how it is read: path, how many rows to hold out; what its card says)
SOURCES: dict[str, tuple[Read, dict[str, str]]] = {
    "gsm8k": (gsm8k.read, gsm8k.ABOUT),
    "gsm8k_test": (gsm8k.read_test, gsm8k.ABOUT_TEST),
    "math500": (math500.read, math500.ABOUT),
    "bfcl": (bfcl.read, bfcl.ABOUT),
    "hotpotqa": (multihop.read_hotpot, multihop.ABOUT_HOTPOT),
    "bamboogle": (multihop.read_bamboogle, multihop.ABOUT_BAMBOOGLE),
    "mentor": (mentor.read, mentor.ABOUT),
    "own": (own.read, own.ABOUT),
}


def read(
    sources: Sequence[str], n_eval: int = 500, fetched: str | Path = "runs"
) -> tuple[list[Pair], list[RejectedRow], list[dict[str, Any]]]:
    """Read sources, each written ``name:path``; ``gsm8k`` alone is looked for in ../shared/data and on the hub.

    Args:
        sources: names in SOURCES with the file or folder to read.
        n_eval: rows to hold out of each source that can be trained on (gsm8k, mentor, own), a fifth at most.
        fetched: folder for what the hub gives.

    Returns:
        Pairs, rejected rows, and for each source what the data's card says: source, files, origin, licence, what is
        simplified, rows, read, and rejected by reason.

    Raises:
        InputError: an unknown source, one without a path, or one that cannot be read.
    """
    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    cards: list[dict[str, Any]] = []
    for source in sources:
        name, _, path = source.partition(":")
        if name not in SOURCES:
            raise InputError(f"source {source!r}: write name:path, with one of {', '.join(SOURCES)}")
        if not path and name != "gsm8k":
            raise InputError(f"source {source!r}: say where it is: {name}:PATH")
        where = Path(path) if path else gsm8k.find(Path(fetched))
        reading, about = SOURCES[name]
        made, refused = reading(where, n_eval)
        pairs += made
        rejected += refused
        cards.append(
            {
                "source": source,
                "files": [str(file) for file in files_of(where)],
                **about,
                "rows": len(made) + len(refused),
                "read": len(made),
                "rejected": dict(Counter(r.reason for r in refused).most_common()),
            }
        )
    return pairs, rejected, cards


def files_of(path: Path) -> list[Path]:
    """The files that a source is made of: itself, or the data files in its folder."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".json", ".jsonl", ".py") and file.is_file())
