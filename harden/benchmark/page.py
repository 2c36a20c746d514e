"""The benchmark's page: the paper's tables with its numbers beside ours, made of the ledger alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harden.benchmark.claims import claims
from harden.benchmark.figures import (
    COLUMNS,
    Cell,
    Figure,
    Group,
    Published,
    failing,
    groups,
    published,
    shaded,
    tried_from_inside,
    worst,
)
from harden.benchmark.ledger import finished, read_ledger
from harden.benchmark.pictures import draw_attacked, draw_costs
from harden.benchmark.tables import TABLES, TASKS, THRESHOLDS, TRIALS, row_of
from harden.storage.files import make_folder, write_text

TITLES = {
    "table5": "Table 5 (and 2): all methods",
    "table6": "Table 6: attacked replay",
    "table8": "Table 8 (and 3): parts of the robust M-step removed",
}
# the two verdicts: the one that leads, and the paper's kind of attack
STYLES = {trial: TRIALS[trial] for trial in ("pgd", "paper")}
_NOTES = Path("falls-short.md")
Cells = dict[str, dict[str, Cell]]


def write_page(ledger: Path, out: Path) -> list[Path]:
    """Write the page and its pictures beside it; returns what was written.

    Raises:
        DamagedFileError: an entry of the ledger is not JSON.
    """
    make_folder(out.parent)
    found = groups(finished(ledger))
    pictures = []
    for (task, budget), rows in found.items():
        of_costs, of_attacks = (out.parent / name for name in _pictures(task, budget))
        draw_costs(of_costs, rows)
        draw_attacked(of_attacks, rows)
        pictures += [of_costs, of_attacks]
    write_text(out, page(ledger, out.parent / _NOTES))
    return [out, *pictures]


def _pictures(task: str, budget: str) -> tuple[str, str]:
    slug = "-".join("".join(c if c.isalnum() else " " for c in budget).split())
    return f"benchmark-{task}-{slug}-figure2.png", f"benchmark-{task}-{slug}-costs.png"


def page(ledger: Path, notes: Path) -> str:
    """Return the page.

    Args:
        notes: a file of prose, put at its end where it is there.
    """
    found = groups(finished(ledger))
    lines = [
        "# Results",
        "",
        "Made by `harden benchmark --render` from its ledger (`benchmarks/results/ledger/` where no other",
        "is named), which `harden benchmark TABLE` fills. Reward / cost an episode, acting with the mean,",
        "each with its 95 % interval (drawn over seeds and episodes; with one seed it says nothing of",
        "others); the paper's with its standard deviation over episodes and 5 seeds. Cost limit 5.",
        "<mark>Marked</mark>: the two lowest costs of a column, more reward first among equals. ★:",
        "failing, a natural reward below a tenth of vanilla's. †: the strong attack began anywhere in the",
        "ball, which is older and weaker. `safer-long` and `ppol` are not in the paper. Budget `reduced`:",
        "the pipeline files' own sizes (docs/tasks.md); `paper`: the paper's.",
        "",
    ]
    # the paper's tasks in its order, then those that it doesn't have
    for task in dict.fromkeys((*TASKS, *(name for name, _ in found))):
        for (name, budget), rows in found.items():
            if name == task:
                lines += _section(task, budget, rows)
    lines += _missing(ledger, found)
    lines += ["", notes.read_text(encoding="utf-8")] if notes.is_file() else []
    return "\n".join(lines).rstrip() + "\n"


def _section(task: str, budget: str, rows: dict[str, Group]) -> list[str]:
    lines = [f"## {task}, {budget}", ""]
    for table, title in TITLES.items():
        own = TABLES[table] if table == "table5" else TABLES[table][2:]
        if any(row in rows for row in own):
            lines += [f"### {title}", ""]
            for trial, how in (TRIALS if table == "table5" else STYLES).items():
                tried = {row: kept for row, group in rows.items() if (kept := group.having(trial))}
                if any(row in tried for row in TABLES[table]):
                    lines += [f"Under attack, {how}:", "", *_table(task, tried, TABLES[table], trial), ""]
    lines += _thresholds(task, rows)
    of_costs, of_attacks = _pictures(task, budget)
    lines += ["### Figure 2: best reward so far against cumulative cost", "", *_training(rows), ""]
    lines += [f"![reward against cost]({of_costs})", "", f"![under attack]({of_attacks})", ""]
    said = [line for trial in STYLES for line in claims(rows, trial)]
    return [*lines, "### The order of the methods", "", *_claims(said), ""]


def _table(task: str, rows: dict[str, Group], names: Sequence[str], trial: str) -> list[str]:
    """Return a table: for each method what came out here, and below it the paper's numbers."""
    cells: Cells = {row: rows[row].cells(trial) for row in names if row in rows}
    stars, theirs = failing(cells), published()
    marks = {column: shaded(cells, column) for column in COLUMNS}
    lines = [
        "| method | steps | seeds | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for row in names:
        if row in cells:
            texts = [_ours(cells[row][column], row in marks[column]) for column in COLUMNS]
            seeds = f"{rows[row].seeds}{' †' if tried_from_inside(rows[row].entries, trial) else ''}"
            front = f"{'★' if row in stars else ''}{row} | {rows[row].steps:,.0f} | {seeds}"
            lines.append(f"| {front} | {' | '.join(texts)} |")
        found = [theirs.get((task, row, column)) for column in COLUMNS]
        if any(found):
            texts = [_theirs(one) for one in found]
            lines.append(f"| {'' if row in cells else row} | the paper's | | {' | '.join(texts)} |")
    return lines


def _ours(cell: Cell, mark: bool) -> str:
    text = f"{_figure(cell.reward, 0)} / {_figure(cell.cost, 1)}"
    return f"<mark>{text}</mark>" if mark else text


def _figure(figure: Figure, digits: int) -> str:
    return f"{figure.mean:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def _theirs(one: Published | None) -> str:
    if one is None:
        return ""
    return f"{one.reward:.0f} ± {one.reward_std:.0f} / {one.cost:.2f} ± {one.cost_std:.2f}"


def _thresholds(task: str, rows: dict[str, Group]) -> list[str]:
    """Return Table 7: the larger of the MC and MR costs, with that attack's reward, by threshold."""
    names = {xi: row_of(task, "safer", xi) for xi in THRESHOLDS.get(task, ())}
    if not any(name in rows for name in names.values() if name != "safer"):
        return []
    theirs = published()
    lines = [
        "### Table 7: the threshold of the adversarial KL",
        "",
        "The attack, MC or MR, that cost more:",
        "",
    ]
    lines += ["| threshold | seeds | " + " | ".join(STYLES) + " | the paper's |", "|---|---|---|---|---|"]
    for xi, name in names.items():
        texts = [""] * len(STYLES)
        if name in rows:
            texts = [_ours(worst(rows[name].cells(trial)), False) for trial in STYLES]
        seeds = rows[name].seeds if name in rows else "not run yet"
        said = " | ".join((*texts, _theirs(theirs.get((task, name, "worst")))))
        lines.append(f"| {xi:g} | {seeds} | {said} |")
    return [*lines, ""]


def _training(rows: dict[str, Group]) -> list[str]:
    """Return what training cost, beside the best reward of a refresh's roll-outs."""
    lines = [
        "| method | seed | steps | minutes | cumulative cost | best reward |",
        "|---|---|---|---|---|---|",
    ]
    for row, group in rows.items():
        for entry in group.entries:
            trained = entry["trained"]
            size = f"{trained['env_steps']:,.0f} | {trained['wall_time_s'] / 60:.1f}"
            gain = f"{trained['cumulative_cost']:,.0f} | {max(trained['curve']['reward']):.0f}"
            lines.append(f"| {row} | {entry['seed']} | {size} | {gain} |")
    return lines


def _claims(found: Sequence[tuple[str, str, str]]) -> list[str]:
    lines = ["| the paper says | here | attack |", "|---|---|---|"]
    return [*lines, *(f"| {claim} | {verdict} | {attack} |" for claim, verdict, attack in found)]


def _missing(ledger: Path, found: dict[tuple[str, str], dict[str, Group]]) -> list[str]:
    """Return what was not run, and what failed and why."""
    wanted = dict.fromkeys(row for names in TABLES.values() for row in names)
    lines = ["## What is missing", ""]
    for task in TASKS:
        there = {row for (name, _), rows in found.items() if name == task for row in rows}
        swept = [row_of(task, "safer", xi) for xi in THRESHOLDS.get(task, ())]
        lacking = [row for row in dict.fromkeys((*wanted, *swept)) if row not in there]
        lines += [f"- {task}: {', '.join(lacking)}"] if lacking else []
    for entry in read_ledger(ledger).values():
        if entry["status"] == "failed":
            lines.append(f"- failed: {entry['task']} {entry['row']} seed {entry['seed']}: {entry['reason']}")
    return lines if len(lines) > 2 else [*lines, "Nothing."]
