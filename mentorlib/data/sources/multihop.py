"""Multi-hop questions, for evaluation: HotpotQA (arXiv 1809.09600) and Bamboogle (2210.03350).

HotpotQA's ten paragraphs are part of the task's toolbox, and a search tool returns the best match (BM25). Its
supporting facts name the paragraphs needed: the reference searches for these and then answers. Bamboogle has no
documents: a search covers those that the user gives, or no tool is offered.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...core import InputError
from ...sandbox.pool import MAX_SOURCE
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from ..problem import ExecutedCall, reference_from_calls
from ..tools import retrieval
from .rows import Row, UnusableRow, convert_file, convert_rows, read_json_lines, read_json_list, required_text

ABOUT_HOTPOTQA = {
    "origin": "HotpotQA, development set in the distractor setting",
    "licence": "CC BY-SA 4.0",
    "simplified": "a search covers the row's own paragraphs (two that are needed, eight that are not), not Wikipedia; "
    "it returns one paragraph, without sentence numbers; only answers are graded, not supporting facts; the "
    "reference's searches are made from the supporting titles",
}
ABOUT_BAMBOOGLE = {
    "origin": "Bamboogle, a list of {Question, Answer}",
    "licence": "MIT (Apache-2.0 for the copy in ToolRL)",
    "simplified": "a search covers the documents that you give with it; without any no tool is offered (closed book); "
    "the reference only answers",
}

SEARCH = Toolbox.from_functions("search", retrieval.TOOLS)
MAX_DOCUMENTS = MAX_SOURCE // 2  # bytes: they are part of the source sent with every call
CLOSED_BOOK = Toolbox.from_schemas("none", [])


def hotpotqa_pair(row: Row, where: str) -> Pair:
    """Turn a row ``{question, answer, supporting_facts, context}`` into an evaluation task.

    Args:
        row: context is ``{title: […], sentences: […]}`` and supporting_facts ``{title: […]}``, as the hub has them, or
            lists of ``[title, …]``, as HotpotQA's own files have them.
        where: file and row.

    Raises:
        UnusableRow: (reason, detail).
    """
    question, answer = required_text(row, "question"), required_text(row, "answer")
    match _columns(row.get("context")):
        case [[*titles], [*sentences]] if titles and len(titles) == len(sentences):
            pass
        case other:
            raise UnusableRow("no paragraphs", other)
    paragraphs: dict[str, str] = {}
    for title, lines in zip(titles, sentences, strict=True):
        if not isinstance(title, str) or not isinstance(lines, list) or not all(isinstance(s, str) for s in lines):
            raise UnusableRow("not a paragraph", title)
        paragraphs[title] = f"{title}: {''.join(lines).strip()}"
    match _columns(row.get("supporting_facts")):
        case [[*needed], _] if needed and all(isinstance(t, str) and t in paragraphs for t in needed):
            pass
        case other:
            raise UnusableRow("no supporting facts among the paragraphs", other)
    toolbox = _search_toolbox(list(paragraphs.values()))
    if len(toolbox.source.encode()) > MAX_DOCUMENTS:
        raise UnusableRow("the paragraphs are too long", f"{len(toolbox.source.encode()):,} bytes")
    calls: list[ExecutedCall] = [
        ("search", {"query": _query(t, paragraphs)}, paragraphs[t]) for t in dict.fromkeys(needed)
    ]
    task = Task(where, question, answer, toolbox, "hotpotqa", "eval", "words")
    return task, reference_from_calls(where, calls, answer)


def _columns(value: Any) -> Any:
    """[titles, values] from the hub's columns or from HotpotQA's pairs; any other value unchanged."""
    match value:
        case {"title": titles, "sentences": others} | {"title": titles, "sent_id": others}:
            return [titles, others]
        case [*pairs] if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            return [[title for title, _ in pairs], [other for _, other in pairs]]
    return value


def _search_toolbox(documents: list[str]) -> Toolbox:
    return replace(SEARCH, source=f"{SEARCH.source}\nDOCUMENTS = {documents!r}\n")


def _query(title: str, paragraphs: dict[str, str]) -> str:
    """A query that finds a paragraph: its title, or its beginning if another paragraph matches the title better."""
    wanted, documents = paragraphs[title], list(paragraphs.values())
    for query in (title, wanted[:100], wanted[:400]):
        if retrieval.best(query, documents) == wanted:
            return query
    raise UnusableRow("no search finds a supporting paragraph", title)


def bamboogle_pair(row: Row, where: str, toolbox: Toolbox = CLOSED_BOOK) -> Pair:
    """Turn a row ``{Question, Answer}`` into an evaluation task; raises UnusableRow."""
    question, answer = required_text(row, "Question"), required_text(row, "Answer")
    task = Task(where, question, answer, toolbox, "bamboogle", "eval", "words")
    return task, reference_from_calls(where, [], answer)


def read_hotpotqa(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read a JSON list of HotpotQA's rows; raises InputError if there is no such list or no usable row."""
    expected = "HotpotQA's JSON list of {question, answer, supporting_facts, context}"
    return convert_file(path, read_json_list(path, expected), hotpotqa_pair, f"usable: give the path of {expected}")


def read_bamboogle(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read Bamboogle's rows.

    Args:
        path: a JSON list of {Question, Answer}, closed book; or a folder with it as bamboogle.json, and with
            documents.jsonl, rows ``{title?, text}``, which the tasks' search tool covers.

    Raises:
        InputError: no such file or list, no usable row, or the documents are too long.
    """
    toolbox = CLOSED_BOOK
    rejected: list[RejectedRow] = []
    if path.is_dir():
        file, path = path / "documents.jsonl", path / "bamboogle.json"
        rows = read_json_lines(file, "a folder with bamboogle.json and documents.jsonl")
        documents, rejected = convert_rows(rows, _document)
        toolbox = _search_toolbox(documents)
        if not documents or len(toolbox.source.encode()) > MAX_DOCUMENTS:
            raise InputError(f"{file}: {len(documents):,} documents: give some, {MAX_DOCUMENTS:,} bytes at most")
    expected = "Bamboogle's JSON list of {Question, Answer}"
    convert = partial(bamboogle_pair, toolbox=toolbox)
    pairs, unusable = convert_file(
        path, read_json_list(path, expected), convert, f"usable: give the path of {expected}"
    )
    return pairs, rejected + unusable


def _document(row: Row, where: str) -> str:
    return ": ".join(required_text(row, key) for key in ("title", "text") if key == "text" or key in row)
