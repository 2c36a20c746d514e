"""The README's table: each task's policies under the strong attack, the paper's SAFER beside them."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from harden.benchmark.figures import COLUMNS, Group, groups, published, tried_from_inside
from harden.benchmark.ledger import finished
from harden.benchmark.tables import TASKS
from harden.errors import InputError

# what stands between these lines of a file is made here
BEGIN, END = "<!-- made by: harden benchmark --render --into README.md -->", "<!-- to here -->"
_TRIAL = "pgd"
# the rows of the table, and whose numbers in the paper stand beside them
_ROWS = {"cvpo": "cvpo", "safer": "safer", "safer-long": "safer"}


def _spread(values: list[float], digits: int) -> str:
    """Return mean and standard deviation over seeds."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _cell(runs: list[np.ndarray]) -> str:
    """Return reward / cost over seeds; each run is (2, episodes)."""
    rewards, costs = ([float(np.mean(run[i])) for run in runs] for i in (0, 1))
    return f"{_spread(rewards, 0)} / {_spread(costs, 1)}"


def _line(task: str, group: Group) -> str:
    columns = group.episodes(_TRIAL)
    minutes = [entry["trained"]["wall_time_s"] / 60 for entry in group.entries]
    theirs = published().get((task, _ROWS[group.row], "average"))
    seeds = f"{len(group.entries)}{' †' if tried_from_inside(group.entries, _TRIAL) else ''}"
    cells = [*(_cell(columns[name]) for name in COLUMNS), _spread(minutes, 0)]
    beside = f"{theirs.reward:.0f} / {theirs.cost:.2f}" if theirs else ""
    return f"| {task} | `{group.row}` | {seeds} | {' | '.join(cells)} | {beside} |"


def headline(ledger: Path) -> list[str]:
    """Return the table of a ledger's runs under the pipelines' own budget."""
    lines = ["| task | policy | seeds | natural | MC | MR | average | minutes | the paper's average |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
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
