"""Multi-hop questions, for evaluation: HotpotQA (arXiv 1809.09600) with its paragraphs, Bamboogle (2210.03350) without.

HotpotQA's ten paragraphs travel in the task's toolbox, and a search tool finds the one that fits best (BM25). Its
supporting facts say which paragraphs a reader needs: the reference searches for these and then answers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import Call, InputError, Pair, Reference, Task
from ..sandbox import MAX_SOURCE
from ..suites import messages_of
from ..teachers import Rejected
from ..toolbox import Toolbox
from ..tools import retrieval
from .rows import Unusable, convert, json_list, text_of

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
    "simplified": "closed book: the data set brings no documents, so no tool is offered and the reference only answers",
}

SEARCH = Toolbox.from_functions("search", retrieval.TOOLS)
CLOSED_BOOK = Toolbox.from_schemas("none", [])


def hotpot_pair(row: dict[str, Any], where: str) -> Pair:
    """Turn a row ``{question, answer, supporting_facts, context: {title, sentences}}`` into an evaluation task.

    Raises:
        Unusable: (reason, detail).
    """
    question, answer = text_of(row, "question"), text_of(row, "answer")
    match row.get("context"):
        case {"title": [*titles], "sentences": [*sentences]} if titles and len(titles) == len(sentences):
            pass
        case other:
            raise Unusable("no paragraphs", other)
    paragraphs: dict[str, str] = {}
    for title, lines in zip(titles, sentences, strict=True):
        if not isinstance(title, str) or not isinstance(lines, list) or not all(isinstance(s, str) for s in lines):
            raise Unusable("not a paragraph", title)
        paragraphs[title] = f"{title}: {''.join(lines).strip()}"
    match row.get("supporting_facts"):
        case {"title": [*needed]} if needed and all(isinstance(t, str) and t in paragraphs for t in needed):
            pass
        case other:
            raise Unusable("no supporting facts among the paragraphs", other)
    documents = list(paragraphs.values())
    toolbox = replace(SEARCH, source=f"{SEARCH.source}\nDOCUMENTS = {documents!r}\n")
    if len(toolbox.source) > MAX_SOURCE // 2:
        raise Unusable("the paragraphs are too long", f"{len(toolbox.source):,} characters")
    made = [("search", {"query": _query(t, paragraphs)}, paragraphs[t]) for t in dict.fromkeys(needed)]
    task = Task(where, question, answer, toolbox, "hotpotqa", "eval", "words")
    return task, Reference(where, messages_of(made, answer), [Call(n, a) for n, a, _ in made], answer)


def _query(title: str, paragraphs: dict[str, str]) -> str:
    """What to search for to find a paragraph: its title, or where another fits that better, its first words too."""
    wanted, documents = paragraphs[title], list(paragraphs.values())
    for query in (title, wanted[:100], wanted[:400]):
        if retrieval.best(query, documents) == wanted:
            return query
    raise Unusable("the search does not find a supporting paragraph", title)


def bamboogle_pair(row: dict[str, Any], where: str) -> Pair:
    """Turn a row ``{Question, Answer}`` into an evaluation task without tools.

    Raises:
        Unusable: (reason, detail).
    """
    question, answer = text_of(row, "Question"), text_of(row, "Answer")
    task = Task(where, question, answer, CLOSED_BOOK, "bamboogle", "eval", "words")
    return task, Reference(where, messages_of([], answer), [], answer)


def read_hotpot(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[Rejected]]:
    """Read a JSON list of HotpotQA's rows: evaluation tasks, and the rows rejected by name. All rows are held out.

    Raises:
        InputError: no such file, not such a file, or no row of it is usable.
    """
    return _read(path, hotpot_pair, "HotpotQA's JSON list of {question, answer, supporting_facts, context}")


def read_bamboogle(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[Rejected]]:
    """Read a JSON list of Bamboogle's rows: evaluation tasks, and the rows rejected by name. All rows are held out.

    Raises:
        InputError: no such file, not such a file, or no row of it is usable.
    """
    return _read(path, bamboogle_pair, "Bamboogle's JSON list of {Question, Answer}")


def _read(path: str | Path, make: Any, what: str) -> tuple[list[Pair], list[Rejected]]:
    rows = json_list(Path(path), what)
    pairs, rejected = convert(rows, make)
    if not pairs:
        raise InputError(f"{path}: none of its {len(rows)} rows is usable: give the path of {what}")
    return pairs, rejected
