"""The README's table: each task's policies under the strong attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harden.benchmark.figures import Group, groups, tried_from_inside
from harden.benchmark.ledger import finished
from harden.benchmark.tables import TASKS
from harden.errors import InputError

# what stands between these lines of a file is made here
BEGIN, END = "<!-- made by: harden benchmark --render --into README.md -->", "<!-- to here -->"
_TRIAL = "pgd"
_ROWS = ("cvpo", "safer", "safer-long")
_COLUMNS = ("natural", "mc", "mr")


def _cell(runs: list[np.ndarray]) -> str:
    """Return reward / cost, the mean over episodes and seeds; each run is (2, episodes)."""
    reward, cost = (np.mean([float(np.mean(run[i])) for run in runs]) for i in (0, 1))
    return f"{reward:.0f} / {cost:.1f}"


def _line(task: str, group: Group) -> str:
    columns = group.episodes(_TRIAL)
    seeds = f"{len(group.entries)}{' †' if tried_from_inside(group.entries, _TRIAL) else ''}"
    return f"| {task} | `{group.row}` | {seeds} | {' | '.join(_cell(columns[name]) for name in _COLUMNS)} |"


def headline(ledger: Path) -> list[str]:
    """Return the table of a ledger's runs under the pipelines' own budget."""
    lines = ["| task | policy | seeds | natural | MC | MR |", "|---|---|---|---|---|---|"]
    found = groups(finished(ledger))
    for task in dict.fromkeys((*TASKS, *(task for task, _ in found))):
        rows = found.get((task, "reduced"), {})
        lines += [_line(task, rows[row]) for row in _ROWS if row in rows]
    return lines


def with_headline(path: Path, ledger: Path) -> str:
    """Return a file's text with the table as it is today.

    Raises:
        InputError: the file has no place for it.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{path} has no place for the table", f"put two lines into it: {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *headline(ledger), "", END + after])
