"""What the paper says of the order of the methods, asked of our own runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harden.benchmark.figures import Cell, Figure, Group, failing, worst
from harden.benchmark.tables import ON_POLICY, REMOVALS

COST_LIMIT = 5.0
Cells = dict[str, dict[str, Cell]]
Claim = tuple[str, str, str]


def claims(rows: dict[str, Group], trial: str) -> list[Claim]:
    """Return each claim of the paper with our verdict and its numbers; those whose runs are missing say so.

    Args:
        rows: a task's runs.
        trial: the kind of attack.
    """
    cells: Cells = {row: group.cells(trial) for row, group in rows.items()}
    stars = failing(cells)

    def said(claim: str, row: str, ask: Callable[[str], tuple[bool | str, str]], *beside: str) -> Claim:
        lacking = [name for name in (row, *beside) if name not in cells]
        if lacking:
            return claim, f"not run yet: {', '.join(lacking)}", trial
        holds, numbers = ask(row)
        word = holds if isinstance(holds, str) else "yes" if holds else "no"
        return claim, f"{word}: {numbers}", trial

    def unsafe(row: str) -> tuple[bool, str]:
        cost, share = _attacked(cells[row]), _over(rows[row], trial)
        said = f"up to {cost.mean:.1f} an episode under attack, its interval to {cost.high:.1f}"
        return cost.mean > COST_LIMIT, f"{said}, {100 * share:.0f} % of the episodes over the limit"

    def fails(row: str) -> tuple[bool, str]:
        holds, numbers = unsafe(row)
        return holds or row in stars, numbers + (", and it does not do the task" if row in stars else "")

    def safe(row: str) -> tuple[bool | str, str]:
        holds, numbers = unsafe(row)
        if holds or row in stars:
            return False, numbers
        doubt = _attacked(cells[row]).high > COST_LIMIT or _over(rows[row], trial) > 0
        return "on average only" if doubt else True, numbers

    def worse(row: str) -> tuple[bool, str]:
        one, full = (group.cells(trial)["average"] for group in _of_equal_seeds(rows[row], rows["safer"]))
        holds = one.cost.mean > full.cost.mean or one.reward.mean < full.reward.mean
        pairs = (f"{cell.reward.mean:.0f} / {cell.cost.mean:.1f}" for cell in (one, full))
        return holds, " beside ".join(pairs) + " on average"

    def dearer(row: str) -> tuple[bool, str]:
        spent, ours = (_spent(group) for group in _of_equal_seeds(rows[row], rows["safer"]))
        return spent > ours, f"{spent:,.0f} beside {ours:,.0f} of safer, over training"

    found = [
        said("vanilla CVPO is unsafe under attack", "cvpo", unsafe),
        said("training under random noise is not enough", "cvpo-random", unsafe),
        said("adv-cvpo fails", "adv-cvpo", fails, "cvpo"),
        said("adv-em-cvpo fails", "adv-em-cvpo", fails, "cvpo"),
        said("sa-ppol is unsafe under attack", "sa-ppol", unsafe),
        said("sa-ppol-mc is unsafe under attack", "sa-ppol-mc", unsafe),
        said("adv-ppol is safe under attack", "adv-ppol", safe),
        said("safer is safe under attack", "safer", safe),
    ]
    found += [said(f"{row} costs more in training than safer", row, dearer, "safer") for row in ON_POLICY[1:]]
    found += [said(f"{row} is worse than safer", row, worse, "safer") for row in REMOVALS]
    return found


def _attacked(cells: dict[str, Cell]) -> Figure:
    """Return the cost under the attack, MC or MR, that cost more."""
    return worst(cells).cost


def _over(group: Group, trial: str) -> float:
    """Return the share of attacked episodes over the limit, of the attack with more of them."""
    columns = group.episodes(trial)
    return max(float(np.mean([run[1] > COST_LIMIT for run in columns[name]])) for name in ("mc", "mr"))


def _of_equal_seeds(one: Group, other: Group) -> tuple[Group, Group]:
    """Return both with the seeds that both have: which starts a row drew says nothing of its method."""
    shared = {entry["seed"] for entry in one.entries} & {entry["seed"] for entry in other.entries}
    if not shared:
        return one, other
    kept = [[entry for entry in group.entries if entry["seed"] in shared] for group in (one, other)]
    return one._replace(entries=kept[0]), other._replace(entries=kept[1])


def _spent(group: Group) -> float:
    costs = [float(entry["trained"]["cumulative_cost"]) for entry in group.entries]
    return sum(costs) / len(costs)
