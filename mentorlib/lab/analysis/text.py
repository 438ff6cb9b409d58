"""Numbers and links as people read them: percentages, tables of strings, addresses of trajectories."""

import math
from typing import Any
from urllib.parse import quote

import pandas as pd


def percent(value: float, digits: int = 0) -> str:
    """0.625 -> "62%"; a dash for NaN."""
    return "–" if value != value else f"{100 * value:.{digits}f}%"


def interval_table(frame: pd.DataFrame, columns: str = "suite") -> pd.DataFrame:
    """A table of ``comparison.accuracy`` by method and ``columns``: strings such as "62% [55, 69]".

    If the frame has a ``word_f1``, it follows: "62% [55, 69], F1 0.71".
    """
    words = frame.get("word_f1", pd.Series(math.nan, index=frame.index))
    texts = [
        (f"{percent(v)} [{100 * a:.0f}, {100 * b:.0f}]" if v == v else "–") + (f", F1 {f1:.2f}" if f1 == f1 else "")
        for v, a, b, f1 in zip(frame["accuracy"], frame["low"], frame["high"], words, strict=True)
    ]
    wide = frame.assign(text=texts).pivot(index="method", columns=columns, values="text").fillna("–")
    return wide.loc[list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame[columns]))]


def link(where: str = "", **filters: Any) -> str:
    """The address of one trajectory (a row's ``where``), or of all that match filters, on the page beside a report.

    Filters are those that the page has menus for (see ``lab.report.viewer``): run, suite, method, phase (evaluation or
    training), outcome, tool, exploit, flag and step.
    """
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in filters.items())
    return f"trajectories.html#{quote(where, safe='/:') if where else '?' + query}"
