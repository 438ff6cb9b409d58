"""What notebook 01 checks before a task is drawn, a row read or a teacher asked."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import InputError
from ..rollout.names import check_policy
from ..runs.run import check_reopen
from .sources import own, split_source
from .suites import check_suite

# With another number of requests at a time, or another price, a run may go on.
NOT_OF_A_RUN = ("concurrency", "per_minute", "timeout", "prices")
_LEAST = {"n_train": 0, "n_eval": 0, "n_validation": 0, "sources_eval": 0, "samples": 1, "max_tokens": 1}
_LEAST |= {"concurrency": 1, "temperature": 0, "per_minute": 0, "seed": 0, "eval_seed": 0}


def check_building(
    *,
    suites: Sequence[str],
    suite_options: dict[str, Any],
    sources: Sequence[str],
    teacher: str,
    teacher_suites: Sequence[str],
    timeout: float,
    prices: Sequence[float],
    **others: Any,
) -> None:
    """Check notebook 01's parameters, which it takes by name.

    Raises:
        InputError: an unknown suite, option or source, a source without a path or whose path is missing, a number out
            of range, nothing to build, suites for a teacher but no teacher, a teacher or template that is not there,
            or a run of that name that has other parameters and did not fail.
    """
    for name, least in _LEAST.items():
        if not (math.isfinite(others.get(name, least)) and others.get(name, least) >= least):
            raise InputError(f"{name}={others[name]}: give at least {least}")
    if not (math.isfinite(timeout) and timeout > 0):
        raise InputError(f"timeout={timeout}: give the seconds that a reply may take, above 0")
    if len(prices) not in (0, 2) or not all(math.isfinite(price) and price >= 0 for price in prices):
        raise InputError(f"prices={list(prices)}: give two, of a million prompt and completion tokens, or [] for none")
    for suite in suites:
        check_suite(suite, suite_options if suite == suites[0] else None)
    if suite_options and not suites:
        raise InputError("suite_options are of the first of suites, and suites=[] names none")
    if not sources and not (suites and (others["n_train"] or others["n_eval"] or others["n_validation"])):
        raise InputError("nothing to build: suites, with n_train or n_eval, or sources")
    for source in sources:
        check_source(source)
    if teacher_suites and not teacher:
        raise InputError(f"teacher_suites names {teacher_suites[0]!r}, but there is no teacher to sample: set teacher=")
    if teacher:
        check_policy(teacher, others["model"], others["template"])
    run: dict[str, Any] = {"suites": suites, "suite_options": suite_options, "sources": sources, "teacher": teacher}
    run |= {"teacher_suites": teacher_suites, **others}
    check_reopen(**{name: value for name, value in run.items() if name not in NOT_OF_A_RUN})


def check_source(source: str) -> None:
    """InputError for a source, written name:path, whose name is unknown or whose path is not there."""
    name, path = split_source(source)
    if path and not Path(path).exists():
        raise InputError(f"source {source!r}: no such file or folder: {path}")
    if name == "own":
        own.check_own(Path(path))
