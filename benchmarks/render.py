"""Make docs/results.md, its pictures and the README's table from the ledger.

python benchmarks/render.py
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harden.benchmark.figures import groups, published, tried_from_inside
from harden.benchmark.ledger import finished
from harden.benchmark.tables import TRIALS
from harden.tasks import TASKS

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "benchmarks/results/ledger"
DOCS, README = ROOT / "docs", ROOT / "README.md"
# what stands between these lines of the README is made here
BEGIN, END = "<!-- made by: python benchmarks/render.py -->", "<!-- to here -->"
VARIANTS = ("cvpo", "safer", "safer-long")
# natural reward, at a cost within the limit, that `time to` asks for
GOALS = {
    "ball-circle": (300, 400, 500),
    "car-circle": (100, 200, 259),
    "drone-run-paper": (100, 150, 193),
    "drone-run": (200, 250, 300),
    "ant-run": (150, 300, 496),
}

Run = dict[str, Any]


def load() -> dict[str, dict[str, list[Run]]]:
    """Return the ledger's runs by task and variant, in the order of their seeds."""
    runs: dict[str, dict[str, list[Run]]] = {}
    for (task, budget), rows in groups(finished(LEDGER)).items():
        if budget == "reduced" and task in GOALS:
            runs[task] = {row: group.entries for row, group in rows.items() if row in VARIANTS}
    for variants in runs.values():
        for group in variants.values():
            group.sort(key=lambda run: run["seed"])
    return {task: runs[task] for task in GOALS if task in runs}


def pair(run: Run, trial: str, attack: str) -> tuple[float, float]:
    """Return reward and cost of one attack of one trial; natural is the same in all."""
    entries = run["trials"]["pgd" if attack == "natural" else trial]
    entry = next(entry for entry in entries if entry["attack"] == attack)
    return entry["reward"]["mean"], entry["cost"]["mean"]


def average(run: Run, trial: str) -> tuple[float, float]:
    """Return reward and cost averaged over natural, MC and MR."""
    pairs = [pair(run, trial, attack) for attack in ("natural", "mc", "mr")]
    rewards, costs = zip(*pairs, strict=True)
    return statistics.mean(rewards), statistics.mean(costs)


def spread(values: list[float], digits: int) -> str:
    """Return mean and standard deviation over seeds."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def cell(pairs: list[tuple[float, float]]) -> str:
    """Return reward / cost over seeds."""
    rewards, costs = (list(column) for column in zip(*pairs, strict=True))
    return f"{spread(rewards, 0)} / {spread(costs, 1)}"


def ours(runs: list[Run], trial: str) -> list[str]:
    """Return natural, MC, MR and their average over seeds."""
    attacked = [cell([pair(run, trial, attack) for run in runs]) for attack in ("natural", "mc", "mr")]
    return [*attacked, cell([average(run, trial) for run in runs])]


def theirs(task: str, variant: str, columns: tuple[str, ...]) -> list[str]:
    """Return the paper's reward / cost, nothing where it doesn't have the task; safer-long's is SAFER's."""
    named = "safer" if variant == "safer-long" else variant
    found = [published().get((task, named, column)) for column in columns]
    return ["" if one is None else f"{one.reward:.0f} / {one.cost:.2f}" for one in found]


def dagger(runs: list[Run], trial: str) -> str:
    """Return the mark of an attack that began anywhere in the ball."""
    return " †" if tried_from_inside(runs, trial) else ""


def tried(variants: dict[str, list[Run]], variant: str, trial: str) -> list[Run]:
    """Return a variant's runs that have a trial: twice the effort is not spent on what is unsafe anyway."""
    return [run for run in variants.get(variant, []) if trial in run["trials"]]


def verdict_table(task: str, variants: dict[str, list[Run]], trial: str) -> list[str]:
    """Return one row a variant under one kind of attack."""
    lines = [
        "| variant | seeds | natural | MC | MR | average | the paper's natural | the paper's average |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        runs = tried(variants, variant, trial)
        if not runs:
            continue
        seeds = ", ".join(str(run["seed"]) for run in runs) + dagger(runs, trial)
        cells = [*ours(runs, trial), *theirs(task, variant, ("natural", "average"))]
        lines.append(f"| {variant} | {seeds} | {' | '.join(cells)} |")
    return lines


def reached(run: Run, reward: float, limit: float) -> tuple[float, float] | None:
    """Return steps and seconds until three refreshes in a row averaged that reward within the limit."""
    curve = run["trained"]["curve"]
    for end in range(3, len(curve["reward"]) + 1):
        last = slice(end - 3, end)
        if statistics.mean(curve["reward"][last]) >= reward and statistics.mean(curve["cost"][last]) <= limit:
            return curve["env_steps"][end - 1], curve["seconds"][end - 1]
    return None


def training_table(task: str, variants: dict[str, list[Run]]) -> list[str]:
    """Return what each run's training took, and the way to named rewards."""
    goals = GOALS[task]
    lines = [
        "| variant | seed | steps | minutes | cumulative cost | "
        + " | ".join(f"steps (s) to {goal}" for goal in goals)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(goals),
    ]
    for variant in VARIANTS:
        for run in variants.get(variant, []):
            trained = run["trained"]
            ways = [reached(run, goal, 5.0) for goal in goals]
            texts = ["never" if way is None else f"{way[0]:,.0f} ({way[1]:.0f})" for way in ways]
            minutes, cost = trained["wall_time_s"] / 60, trained["cumulative_cost"]
            front = f"{variant} | {run['seed']} | {trained['env_steps']:,.0f} | {minutes:.1f} | {cost:,.0f}"
            lines.append(f"| {front} | {' | '.join(texts)} |")
    return lines


def against_vanilla(variants: dict[str, list[Run]], trial: str) -> list[str]:
    """Return what the robust variants keep of vanilla's reward and take of its attacked cost."""
    vanilla = variants.get("cvpo")
    if not vanilla:
        return []

    def means(runs: list[Run]) -> tuple[float, float]:
        natural = statistics.mean(pair(run, trial, "natural")[0] for run in runs)
        attacked = statistics.mean(pair(run, trial, attack)[1] for run in runs for attack in ("mc", "mr"))
        return natural, attacked

    base = means(vanilla)
    lines = []
    for variant in VARIANTS[1:]:
        if variant in variants:
            natural, attacked = means(variants[variant])
            lines.append(
                f"- `{variant}` keeps {100 * natural / base[0]:.0f} % of vanilla's natural reward and takes "
                f"{100 * (1 - attacked / base[1]):.0f} % of its attacked cost away."
            )
    return [*lines, ""] if lines else []


def ended_early(task: str, variants: dict[str, list[Run]], trial: str) -> list[str]:
    """Return how many episodes the dynamics ended: a robot that falls costs nothing afterwards."""
    lines = []
    for variant, runs in variants.items():
        shares = []
        for attack in ("natural", "mc", "mr"):
            kind = "pgd" if attack == "natural" else trial
            entries = [entry for run in runs for entry in run["trials"][kind] if entry["attack"] == attack]
            # older entries don't say how long their episodes were
            lengths = [length for entry in entries for length in entry["by_episode"].get("length", [])]
            if lengths:
                shares.append(statistics.mean(length < TASKS[task].horizon for length in lengths))
        if shares:
            said = ", ".join(f"{100 * share:.0f} %" for share in shares)
            lines.append(
                f"- `{variant}`: {said} of the episodes ended before their time limit (natural, MC, MR)."
            )
    return [*lines, ""] if lines else []


def draw(task: str, variants: dict[str, list[Run]]) -> None:
    """Draw reward and cost against steps, and reward against cumulative cost (the paper's Figure 2)."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for colour, variant in zip(("C0", "C1", "C2"), VARIANTS, strict=True):
        for place, run in enumerate(variants.get(variant, [])):
            curve = run["trained"]["curve"]
            label = variant if place == 0 else None
            best = [max(curve["reward"][: i + 1]) for i in range(len(curve["reward"]))]
            axes[0].plot(curve["env_steps"], curve["reward"], colour, lw=1, label=label)
            axes[1].plot(curve["env_steps"], curve["cost"], colour, lw=1, label=label)
            axes[2].plot([max(c, 1) for c in curve["cumulative_cost"]], best, colour, lw=1, label=label)
    axes[1].axhline(5, color="gray", linestyle="--", lw=1)
    axes[1].set_yscale("symlog", linthresh=10)
    axes[2].set_xscale("log")
    names = (
        ("environment steps", "reward"),
        ("environment steps", "cost"),
        ("cumulative cost", "best reward"),
    )
    for ax, (x, y) in zip(axes, names, strict=True):
        ax.set(xlabel=x, ylabel=y + " of an episode")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    figure.savefig(DOCS / f"learning-{task}.png", dpi=100)


def section(task: str, variants: dict[str, list[Run]]) -> list[str]:
    """Return a task's part of the page."""
    lines = [f"## {task}, epsilon {TASKS[task].epsilon:g}", ""]
    for trial, how in TRIALS.items():
        if not any(tried(variants, variant, trial) for variant in variants):
            continue
        lines += [f"Under attack, {how}:", "", *verdict_table(task, variants, trial), ""]
        if trial in ("pgd", "paper"):
            lines += against_vanilla(variants, trial) + ended_early(task, variants, trial)
    lines.append("Training, reward and cost of the benign roll-outs (three refreshes' mean, cost at most 5):")
    lines += ["", *training_table(task, variants), "", f"![learning curves](learning-{task}.png)", ""]
    return lines


def page() -> str:
    """Return docs/results.md."""
    falls_short = DOCS / "falls-short.md"
    lines = [
        "# Results",
        "",
        "Made by `python benchmarks/render.py` from `benchmarks/results/ledger/`, which `harden benchmark`",
        "and `python benchmarks/quality.py TASK VARIANT` fill. All methods of the paper:",
        "[benchmark.md](benchmark.md). Reward / cost an episode, 50 episodes, acting with the mean, cost",
        "limit 5; ± is the standard deviation over training seeds. The paper's numbers are Table 5's, under",
        "its own kind of attack (beside safer-long, SAFER's). Minutes are wall time of one thread on two",
        "cores that did other work as well. †: the attack began anywhere in the ball, which is older and",
        "weaker.",
        "",
    ]
    for task, variants in load().items():
        lines += section(task, variants)
    lines += [falls_short.read_text()] if falls_short.is_file() else []
    return "\n".join(lines).rstrip() + "\n"


def headline() -> list[str]:
    """Return the README's table: each task's policies under the strong attack, the paper's SAFER beside."""
    lines = ["| task | policy | seeds | natural | MC | MR | average | minutes | the paper's average |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for task, variants in load().items():
        for variant in (name for name in VARIANTS if name in variants):
            runs = variants[variant]
            minutes = spread([run["trained"]["wall_time_s"] / 60 for run in runs], 0)
            cells = [*ours(runs, "pgd"), minutes, *theirs(task, variant, ("average",))]
            lines.append(f"| {task} | `{variant}` | {len(runs)}{dagger(runs, 'pgd')} | {' | '.join(cells)} |")
    return lines


def readme() -> str:
    """Return the README with the table as it is today."""
    before, rest = README.read_text().split(BEGIN)
    return "\n".join([before + BEGIN, "", *headline(), "", END + rest.split(END)[1]])


def main() -> None:
    """Write the page, its pictures and the README's table."""
    (DOCS / "results.md").write_text(page())
    README.write_text(readme())
    for task, variants in load().items():
        draw(task, variants)


if __name__ == "__main__":
    main()
