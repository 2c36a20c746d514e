"""The ledger's numbers as tables need them: runs of equal settings together, with intervals."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harden.benchmark.ledger import Entry
from harden.benchmark.tables import row_of
from harden.evaluation.statistics import pooled, summarise

COLUMNS = ("natural", "mc", "mr", "average")
# below this share of vanilla's natural reward a row has failed, as in the paper
FAILING = 0.1


class Figure(NamedTuple):
    """A mean and its 95 % interval; the paper's have its standard deviation in place of that."""

    mean: float
    low: float
    high: float


class Cell(NamedTuple):
    """Reward and cost of an episode."""

    reward: Figure
    cost: Figure


class Published(NamedTuple):
    """The paper's reward and cost, mean and standard deviation over episodes and seeds."""

    reward: float
    reward_std: float
    cost: float
    cost_std: float


class Group(NamedTuple):
    """The finished runs of a task's row that were made with equal settings.

    Args:
        row: the row's name.
        entries: in the order of their seeds.
    """

    row: str
    entries: list[Entry]

    def cells(self, trial: str) -> dict[str, Cell]:
        """Return reward and cost by column, under one kind of attack."""
        return {
            name: Cell(*(interval([run[i] for run in runs]) for i in (0, 1)))
            for name, runs in self.episodes(trial).items()
        }

    def episodes(self, trial: str) -> dict[str, list[np.ndarray]]:
        """Return (2, episodes) of each run by column: rewards and costs; all trials share the natural one."""
        columns = {name: self._of("pgd" if name == "natural" else trial, name) for name in COLUMNS[:3]}
        # equal starts: an episode's average over what was done to it
        columns["average"] = [np.mean(parts, axis=0) for parts in zip(*columns.values(), strict=True)]
        return columns

    def having(self, trial: str) -> Group | None:
        """Return the runs that have a trial, None where none has: what is unsafe is not tried harder."""
        entries = [entry for entry in self.entries if trial in entry["trials"]]
        return self._replace(entries=entries) if entries else None

    def _of(self, trial: str, attack: str) -> list[np.ndarray]:
        """Return (2, episodes) of each run: rewards and costs."""
        found = []
        for entry in self.entries:
            one = next(tried for tried in entry["trials"][trial] if tried["attack"] == attack)
            found.append(np.array([one["by_episode"]["reward"], one["by_episode"]["cost"]]))
        return found

    @property
    def steps(self) -> float:
        """Steps of simulation of a run."""
        return float(self.entries[0]["trained"]["env_steps"])

    @property
    def seeds(self) -> str:
        """The seeds in words."""
        return ", ".join(str(entry["seed"]) for entry in self.entries)


def interval(runs: list[np.ndarray]) -> Figure:
    """Return the mean over runs of their episodes' means, with a 95 % two-level bootstrap interval.

    Args:
        runs: one number an episode, for each run.

    Source: runs are drawn with replacement, then the episodes of each (Davison and Hinkley 1997, 3.8); with
        one run it says how far its episodes vary, and nothing of other seeds.
    """
    found = pooled(runs) if len(runs) > 1 else summarise(runs[0])
    return Figure(found["mean"], *found["ci95"])


def groups(entries: Iterable[Entry]) -> dict[tuple[str, str], dict[str, Group]]:
    """Return the newest settings' runs by row, for each task and budget.

    Runs of other settings are never averaged with them: what was run before a setting changed stays in the
    ledger and leaves the tables.
    """
    by_digest: dict[tuple[str, str, str], dict[str, list[Entry]]] = {}
    for entry in entries:
        place = entry["task"], entry["budget"], entry["row"]
        by_digest.setdefault(place, {}).setdefault(entry["digest"], []).append(entry)
    found: dict[tuple[str, str], dict[str, Group]] = {}
    for (task, budget, row), several in by_digest.items():
        newest = max(several.values(), key=lambda runs: max(run["date"] for run in runs))
        runs = sorted(newest, key=lambda run: run["seed"])
        found.setdefault((task, budget), {})[row] = Group(row, runs)
    return found


def tried_from_inside(entries: Iterable[Entry], trial: str) -> bool:
    """Return whether gradient attacks began anywhere in the ball: weaker than from its corners."""
    tried = (one for entry in entries for one in entry["trials"][trial])
    return any(one["style"] == "pgd" and one.get("starts") != "corners" for one in tried)


def failing(cells: dict[str, dict[str, Cell]]) -> set[str]:
    """Return the rows whose natural reward is under a tenth of vanilla's; none where vanilla is missing."""
    if "cvpo" not in cells:
        return set()
    least = FAILING * cells["cvpo"]["natural"].reward.mean
    return {row for row, columns in cells.items() if columns["natural"].reward.mean < least}


def shaded(cells: dict[str, dict[str, Cell]], column: str) -> set[str]:
    """Return the two rows with the lowest costs, more reward first among equals; failing rows don't count."""
    rows = [row for row in cells if row not in failing(cells)]

    def order(row: str) -> tuple[float, float]:
        cell = cells[row][column]
        return round(cell.cost.mean, 2), -cell.reward.mean

    return set(sorted(rows, key=order)[:2])


def worst(cells: dict[str, Cell]) -> Cell:
    """Return the attack, MC or MR, that cost more (Table 7)."""
    return max((cells["mc"], cells["mr"]), key=lambda cell: cell.cost.mean)


def published() -> dict[tuple[str, str, str], Published]:
    """Return the paper's numbers by task, row and column: Tables 5 to 8.

    Table 6 prints SAFER's natural figures for Drone-Run as its average: what is here is Table 5's average.
    """
    found: dict[tuple[str, str, str], Published] = {}
    with open(Path(__file__).with_name("published.csv"), newline="") as handle:
        for line in csv.DictReader(handle):
            row = line["row"]
            if line["table"] == "table7":
                row = row_of(line["task"], "safer", float(row))
            numbers = (float(line[name]) for name in Published._fields)
            found[line["task"], row, line["column"]] = Published(*numbers)
    return found
