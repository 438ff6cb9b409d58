"""Multi-hop questions, for evaluation: HotpotQA (arXiv 1809.09600) and Bamboogle (2210.03350).

HotpotQA's ten paragraphs travel in the task's toolbox, and a search tool finds the one that fits best (BM25). Its
supporting facts say which paragraphs a reader needs: the reference searches for these and then answers. Bamboogle
brings no documents: documents of yours are searched, or nothing is.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core import InputError
from ...sandbox.pool import MAX_SOURCE
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from ..problem import ExecutedCall, reference_from_calls
from ..tools import retrieval
from .rows import Unusable, convert, json_lines, json_list, text_of, usable

ABOUT_HOTPOT = {
    "origin": "HotpotQA, development set in the distractor setting",
    "licence": "CC BY-SA 4.0",
    "simplified": "a search covers the row's own paragraphs (two that are needed, eight that are not), not Wikipedia; "
    "it gives one paragraph, without sentence numbers; answers only, no supporting facts asked for; the reference's "
    "searches are made from the supporting titles",
}
ABOUT_BAMBOOGLE = {
    "origin": "Bamboogle, a list of {Question, Answer}",
    "licence": "MIT (Apache-2.0 for the copy in ToolRL)",
    "simplified": "a search covers the documents that you give with it; without any no tool is offered (closed book); "
    "the reference only answers",
}

SEARCH = Toolbox.from_functions("search", retrieval.TOOLS)
MAX_DOCUMENTS = MAX_SOURCE // 2  # bytes: they travel in the source of every call
CLOSED_BOOK = Toolbox.from_schemas("none", [])


def hotpot_pair(row: dict[str, Any], where: str) -> Pair:
    """Turn a row ``{question, answer, supporting_facts, context}`` into an evaluation task.

    Args:
        row: context is ``{title: […], sentences: […]}`` and supporting_facts ``{title: […]}``, as the hub has them, or
            lists of ``[title, …]``, as HotpotQA's own files have them.
        where: file and row.

    Raises:
        Unusable: (reason, detail).
    """
    question, answer = text_of(row, "question"), text_of(row, "answer")
    match _columns(row.get("context")):
        case [[*titles], [*sentences]] if titles and len(titles) == len(sentences):
            pass
        case other:
            raise Unusable("no paragraphs", other)
    paragraphs: dict[str, str] = {}
    for title, lines in zip(titles, sentences, strict=True):
        if not isinstance(title, str) or not isinstance(lines, list) or not all(isinstance(s, str) for s in lines):
            raise Unusable("not a paragraph", title)
        paragraphs[title] = f"{title}: {''.join(lines).strip()}"
    match _columns(row.get("supporting_facts")):
        case [[*needed], _] if needed and all(isinstance(t, str) and t in paragraphs for t in needed):
            pass
        case other:
            raise Unusable("no supporting facts among the paragraphs", other)
    toolbox = _searching(list(paragraphs.values()))
    if len(toolbox.source.encode()) > MAX_DOCUMENTS:
        raise Unusable("the paragraphs are too long", f"{len(toolbox.source.encode()):,} bytes")
    calls: list[ExecutedCall] = [
        ("search", {"query": _query(t, paragraphs)}, paragraphs[t]) for t in dict.fromkeys(needed)
    ]
    task = Task(where, question, answer, toolbox, "hotpotqa", "eval", "words")
    return task, reference_from_calls(where, calls, answer)


def _columns(value: Any) -> Any:
    """Titles and what belongs to each, from the hub's columns or from HotpotQA's pairs; else what was given."""
    match value:
        case {"title": titles, "sentences": others} | {"title": titles, "sent_id": others}:
            return [titles, others]
        case [*pairs] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return [[title for title, _ in pairs], [other for _, other in pairs]]
    return value


def _searching(documents: list[str]) -> Toolbox:
    return replace(SEARCH, source=f"{SEARCH.source}\nDOCUMENTS = {documents!r}\n")


def _query(title: str, paragraphs: dict[str, str]) -> str:
    """What to search for to find a paragraph: its title, or where another fits that better, its first words too."""
    wanted, documents = paragraphs[title], list(paragraphs.values())
    for query in (title, wanted[:100], wanted[:400]):
        if retrieval.best(query, documents) == wanted:
            return query
    raise Unusable("the search does not find a supporting paragraph", title)


def bamboogle_pair(row: dict[str, Any], where: str, toolbox: Toolbox = CLOSED_BOOK) -> Pair:
    """Turn a row ``{Question, Answer}`` into an evaluation task.

    Raises:
        Unusable: (reason, detail).
    """
    question, answer = text_of(row, "Question"), text_of(row, "Answer")
    task = Task(where, question, answer, toolbox, "bamboogle", "eval", "words")
    return task, reference_from_calls(where, [], answer)


def read_hotpot(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[RejectedRow]]:
    """Read a JSON list of HotpotQA's rows: evaluation tasks, and the rows rejected by name. All rows are held out.

    Raises:
        InputError: no such file, not such a file, or no row of it is usable.
    """
    return _read(path, hotpot_pair, "HotpotQA's JSON list of {question, answer, supporting_facts, context}")


def read_bamboogle(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[RejectedRow]]:
    """Read Bamboogle's rows: evaluation tasks, and the rows rejected by name. All rows are held out.

    Args:
        path: a JSON list of {Question, Answer}, closed book; or a folder with it as bamboogle.json, and with
            documents.jsonl, whose rows ``{text}``, perhaps with ``title``, are what the tasks' search tool covers.
        n_eval: all rows are held out.

    Raises:
        InputError: no such file, not such a file, no row of it is usable, or the documents are too long.
    """
    path, toolbox = Path(path), CLOSED_BOOK
    rejected: list[RejectedRow] = []
    if path.is_dir():
        file, path = path / "documents.jsonl", path / "bamboogle.json"
        documents, rejected = convert(json_lines(file, "a folder with bamboogle.json and documents.jsonl"), _document)
        toolbox = _searching(documents)
        if not documents or len(toolbox.source.encode()) > MAX_DOCUMENTS:
            raise InputError(f"{file}: {len(documents):,} documents: give some, {MAX_DOCUMENTS:,} bytes at most")
    what = "Bamboogle's JSON list of {Question, Answer}"
    pairs, refused = _read(path, lambda row, where: bamboogle_pair(row, where, toolbox), what)
    return pairs, rejected + refused


def _document(row: dict[str, Any], where: str) -> str:
    return ": ".join(text_of(row, key) for key in ("title", "text") if key == "text" or key in row)


def _read(path: str | Path, make: Any, what: str) -> tuple[list[Pair], list[RejectedRow]]:
    return usable(path, json_list(Path(path), what), make, f"usable: give the path of {what}")
