"""The benchmark's pictures: reward against cumulative cost (Figure 2), and cost under attack by method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harden.benchmark.figures import Group
from harden.benchmark.tables import TABLES
from harden.storage.files import write_whole


def draw_costs(path: Path, rows: dict[str, Group]) -> None:
    """Draw the running maximum of reward against the cumulative cost of training, one line a run."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    ax = figure.subplots()
    named = [row for row in TABLES["figure2"] if row in rows]
    for place, row in enumerate(named):
        for count, entry in enumerate(rows[row].entries):
            curve = entry["trained"]["curve"]
            # a logarithm has no zero: cost below one is drawn at one
            spent = np.maximum(curve["cumulative_cost"], 1.0)
            best = np.maximum.accumulate(curve["reward"])
            ax.plot(spent, best, f"C{place}", lw=1.2, label=row if count == 0 else None)
    ax.set(xscale="log", xlabel="cumulative cost of training", ylabel="best reward of an episode so far")
    ax.grid(alpha=0.3)
    if named:
        ax.legend(fontsize=8)
    _save(figure, path)


def draw_attacked(path: Path, rows: dict[str, Group]) -> None:
    """Draw each method's cost, natural and under the strong attacks, with intervals."""
    figure = Figure(figsize=(max(5.0, 1.0 * len(rows)), 3.4), layout="constrained")
    ax = figure.subplots()
    cells = [group.cells("pgd") for group in rows.values()]
    places = np.arange(len(cells))
    for shift, column in enumerate(("natural", "mc", "mr")):
        costs = [cell[column].cost for cell in cells]
        means = np.array([cost.mean for cost in costs])
        reach = [means - [cost.low for cost in costs], [cost.high for cost in costs] - means]
        ax.bar(places + 0.27 * (shift - 1), means, 0.25, yerr=reach, label=column, error_kw={"lw": 1})
    ax.axhline(5, color="gray", linestyle="--", lw=1)
    ax.set_xticks(places, list(rows), rotation=35, ha="right", fontsize=8)
    ax.set(yscale="symlog", ylabel="cost of an episode")
    ax.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    write_whole(path, lambda aside: figure.savefig(aside, dpi=100, format="png", metadata={"Software": None}))
