"""What is shown of the ledger: the results page, its pictures, and the README's table."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harden.benchmark.ledger import Entry, finished, read_ledger
from harden.benchmark.tables import TABLES, TASKS, THRESHOLDS, row_of
from harden.errors import InputError
from harden.evaluation.radius import radius_words
from harden.storage.files import make_folder, write_text, write_whole

# what stands between these lines of a file is made here
BEGIN, END = "<!-- made by: harden benchmark --render --into README.md -->", "<!-- to here -->"
ATTACKS = ("natural", "mc", "mr")
# a run's kinds of trial, and how the page's columns call the averages under them
TRIALS = {
    "pgd": "average",
    "pgd-doubled": "twice the effort",
    "paper": "the authors' attack",
    "paper-no-stop": "without its stop rule",
}
# the rows of the README's table
_HEADLINE = ("cvpo", "safer", "safer-long", "safer-model")
_ABOUT = """# Results

Made by `harden benchmark --render` from `benchmarks/results/ledger/`, which `harden benchmark TABLE`
fills. Each cell is reward / cost of an episode, acting with the mean, over 50 episodes; several seeds
are followed by their mean and deviation over seeds, the paper's numbers by their deviation over episodes
and 5 seeds. The cost limit is 5. natural, mc, mr and their average: sign-gradient PGD, 50 steps, 5
restarts from corners of the ball. The three columns after it are the same average under 100 steps and 10
restarts (for policies that the first left within the limit), under the authors' attack (Adam, 200 steps,
carried over, tolerances 1e-4), and under that without its stop rule. The last column is the breaking radius
under mc, the smallest of several seeds; runs from before it was searched have none. Training cost is the
sum over training. ★: a natural reward below a tenth of cvpo's. `safer-long`, `safer-model` and `ppol` are
not in the paper.
Where the numbers fall short: [falls-short.md](falls-short.md)."""


class Numbers(NamedTuple):
    """Reward and cost of an episode: means, and deviations or None."""

    reward: float
    reward_std: float | None
    cost: float
    cost_std: float | None

    def __str__(self) -> str:
        cells = (self.reward, self.reward_std, 0), (self.cost, self.cost_std, 1)
        parts = (f"{m:.{d}f}" if std is None else f"{m:.{d}f} ± {std:.{d}f}" for m, std, d in cells)
        return " / ".join(parts)


def numbers(entries: Sequence[Entry], column: str, trial: str = "pgd") -> Numbers | None:
    """Return mean and deviation over runs, None where one of them was not tried so.

    Args:
        column: natural, mc, mr, their average, or worst: the one of mc and mr that cost more.
    """
    runs = []
    for entry in entries:
        if trial not in entry["trials"]:
            return None
        # all trials share the natural episodes
        tried = [*entry["trials"]["pgd"][:1], *entry["trials"][trial][1:]]
        episodes = [[np.mean(result["by_episode"][key]) for key in ("reward", "cost")] for result in tried]
        if column == "average":
            runs.append(np.mean(episodes, axis=0))
        elif column == "worst":
            runs.append(max(episodes[1:], key=lambda pair: pair[1]))
        else:
            runs.append(episodes[ATTACKS.index(column)])
    (reward, cost), several = np.mean(runs, axis=0), len(runs) > 1
    stds = np.std(runs, axis=0, ddof=1) if several else (None, None)
    return Numbers(float(reward), stds[0], float(cost), stds[1])


def breaks_at(entries: Sequence[Entry]) -> str:
    """Return the smallest breaking radius of runs, "–" where one of them was not searched for it.

    Of a run that was searched for several attacks mc's counts, else the smallest.
    """
    radii = list[dict[str, Any]]()
    for entry in entries:
        rows = entry.get("breaking_radius") or []
        rows = [row for row in rows if row["attack"] == "mc"] or rows
        if not rows:
            return "–"
        radii += rows
    found = [row for row in radii if row["epsilon"] is not None]
    key = "epsilon" if found else "tried_up_to"
    return radius_words(min(found or radii, key=lambda row: float(row[key])))


def groups(entries: Sequence[Entry]) -> dict[tuple[str, str], dict[str, list[Entry]]]:
    """Return the newest settings' runs by row, in the order of their seeds, for each task and budget.

    Runs of other settings are never averaged with them: what was run before a setting changed stays in the
    ledger and leaves the tables.
    """
    by_digest: dict[tuple[str, str, str], dict[str, list[Entry]]] = {}
    for entry in entries:
        cell = entry["task"], entry["budget"], entry["row"]
        by_digest.setdefault(cell, {}).setdefault(entry["digest"], []).append(entry)
    grouped: dict[tuple[str, str], dict[str, list[Entry]]] = {}
    for (task, budget, row), several in by_digest.items():
        newest = max(several.values(), key=lambda runs: max(run["date"] for run in runs))
        grouped.setdefault((task, budget), {})[row] = sorted(newest, key=lambda run: run["seed"])
    # the paper's tasks in its order, then those that it doesn't have
    return dict(sorted(grouped.items(), key=lambda item: [*TASKS, item[0][0]].index(item[0][0])))


def published() -> dict[tuple[str, str, str], Numbers]:
    """Return the paper's numbers by task, row and column: Tables 5 to 8.

    Table 6 prints SAFER's natural figures for Drone-Run as its average: what is here is Table 5's average.
    """
    by_cell: dict[tuple[str, str, str], Numbers] = {}
    with open(Path(__file__).with_name("published.csv"), newline="") as handle:
        for line in csv.DictReader(handle):
            row = line["row"]
            if line["table"] == "table7":
                row = row_of(line["task"], "safer", float(row))
            by_cell[line["task"], row, line["column"]] = Numbers(
                *(float(line[name]) for name in Numbers._fields)
            )
    return by_cell


def _line(*cells: Any) -> str:
    return f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |"


def _header(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _table(task: str, rows: dict[str, list[Entry]]) -> list[str]:
    """Return each row's runs, their mean over seeds, and the paper's numbers."""
    published_numbers = published()
    vanilla = numbers(rows["cvpo"], "natural") if "cvpo" in rows else None
    columns = *ATTACKS, *TRIALS.values(), "breaking radius"
    lines = _header("method", "seed", "steps", "minutes", "training cost", *columns)
    names = dict.fromkeys(row for table in TABLES.values() for row in table if row in rows)
    for name in [*names, *sorted(rows.keys() - names.keys())]:
        natural = numbers(rows[name], "natural")
        failing = vanilla and natural and natural.reward < 0.1 * vanilla.reward
        parts = [[entry] for entry in rows[name]] + ([rows[name]] if len(rows[name]) > 1 else [])
        for entries in parts:
            trained, alone = entries[0]["trained"], len(entries) == 1
            head = f"{'★' if failing else ''}{name}", entries[0]["seed"] if alone else "all"
            spent, cost = (
                statistics.mean(entry["trained"][key] for entry in entries)
                for key in ("wall_time_s", "cumulative_cost")
            )
            size = f"{trained['env_steps']:,.0f}", f"{spent / 60:.0f}"
            cells = [numbers(entries, column) for column in ATTACKS]
            cells += [numbers(entries, "average", trial) for trial in TRIALS]
            lines.append(_line(*head, *size, f"{cost:,.0f}", *cells, breaks_at(entries)))
        cells = [published_numbers.get((task, name, column)) for column in (*ATTACKS, "average")]
        if any(cells):
            lines.append(_line(name, "the paper's", "", "", "", *cells, "", "", "", ""))
    return lines


def _thresholds(task: str, rows: dict[str, list[Entry]]) -> list[str]:
    """Return Table 7: the larger of the MC and MR costs, with that attack's reward, by threshold."""
    names = {xi: row_of(task, "safer", xi) for xi in THRESHOLDS.get(task, ())}
    if not any(name in rows for name in names.values() if name != "safer"):
        return []
    lines = ["", "Table 7, the threshold of the adversarial KL: the attack, MC or MR, that cost more.", ""]
    lines += _header("threshold", "seeds", "PGD", "the authors' attack", "the paper's")
    for xi, name in names.items():
        entries = rows.get(name, [])
        ours = [numbers(entries, "worst", trial) if entries else None for trial in ("pgd", "paper")]
        lines.append(_line(f"{xi:g}", len(entries), *ours, published().get((task, name, "worst"))))
    return lines


def _missing(ledger: Path, grouped: dict[tuple[str, str], dict[str, list[Entry]]]) -> list[str]:
    """Return what was not run, and what failed and why."""
    lines = []
    for task in TASKS:
        thresholds = [row_of(task, "safer", xi) for xi in THRESHOLDS.get(task, ())]
        there = {row for (name, _), rows in grouped.items() if name == task for row in rows}
        wanted = dict.fromkeys([row for rows in TABLES.values() for row in rows] + thresholds)
        lacking = [row for row in wanted if row not in there]
        lines += [f"- {task}: {', '.join(lacking)}"] if lacking else []
    for entry in read_ledger(ledger).values():
        if entry["status"] == "failed":
            lines.append(f"- failed: {entry['task']} {entry['row']} seed {entry['seed']}: {entry['reason']}")
    return ["## What is missing", "", *(lines or ["Nothing."])]


def _picture(task: str, budget: str) -> str:
    slug = "-".join("".join(c if c.isalnum() else " " for c in budget).split())
    return f"benchmark-{task}-{slug}-figure2.png"


def page(ledger: Path) -> str:
    """Return the results page."""
    grouped = groups(finished(ledger))
    lines = [_ABOUT, ""]
    for (task, budget), rows in grouped.items():
        lines += [f"## {task}, {budget}", "", *_table(task, rows), *_thresholds(task, rows), ""]
        lines += [f"![best reward so far against cumulative cost]({_picture(task, budget)})", ""]
    return "\n".join([*lines, *_missing(ledger, grouped)]) + "\n"


def headline(ledger: Path) -> list[str]:
    """Return the README's table: means over the seeds of runs under the pipelines' own budget."""
    lines = _header("task", "policy", "seeds", "natural", "MC", "MR")
    for (task, budget), rows in groups(finished(ledger)).items():
        for row in _HEADLINE if budget == "reduced" else ():
            if row in rows:
                cells = [numbers(rows[row], column) for column in ATTACKS]
                means = [cell and cell._replace(reward_std=None, cost_std=None) for cell in cells]
                lines.append(_line(task, f"`{row}`", len(rows[row]), *means))
    return lines


def with_headline(path: Path, ledger: Path) -> str:
    """Return a file's text with the README's table as it is today.

    Raises:
        InputError: the file has no place for it.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{path} has no place for the table", f"put two lines into it: {BEGIN} and {END}")
    return "\n".join([before + BEGIN, "", *headline(ledger), "", END + after])


def write_page(ledger: Path, out: Path) -> list[Path]:
    """Write the results page and its pictures beside it; returns what was written.

    Raises:
        DamagedFileError: an entry of the ledger is not JSON.
    """
    make_folder(out.parent)
    pictures = []
    for (task, budget), rows in groups(finished(ledger)).items():
        pictures.append(out.parent / _picture(task, budget))
        draw_costs(pictures[-1], rows)
    write_text(out, page(ledger))
    return [out, *pictures]


def draw_costs(path: Path, rows: dict[str, list[Entry]]) -> None:
    """Draw Figure 2: the running maximum of reward against the cumulative cost of training, a line a run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(row for row in TABLES["figure2"] if row in rows):
        for count, entry in enumerate(rows[row]):
            curve = entry["trained"]["curve"]
            # a logarithm has no zero: cost below one is drawn at one
            spent, best = np.maximum(curve["cumulative_cost"], 1.0), np.maximum.accumulate(curve["reward"])
            axes.plot(spent, best, f"C{number}", lw=1.2, label=row if count == 0 else None)
    axes.set(xscale="log", xlabel="cumulative cost of training", ylabel="best reward of an episode so far")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=100, format="png", metadata={"Software": None}))
