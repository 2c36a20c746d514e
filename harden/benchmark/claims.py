"""What the paper says of the order of the methods, asked of our own runs."""

from __future__ import annotations

from collections.abc import Callable

from harden.benchmark.figures import Cell, Group, failing
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

    def said(claim: str, row: str, ask: Callable[[str], tuple[bool, str]], *beside: str) -> Claim:
        lacking = [name for name in (row, *beside) if name not in cells]
        if lacking:
            return claim, f"not run yet: {', '.join(lacking)}", trial
        holds, numbers = ask(row)
        return claim, f"{'yes' if holds else 'no'}: {numbers}", trial

    def unsafe(row: str) -> tuple[bool, str]:
        cost = _attacked(cells[row])
        return cost > COST_LIMIT, f"up to {cost:.1f} an episode under attack"

    def fails(row: str) -> tuple[bool, str]:
        holds, numbers = unsafe(row)
        return holds or row in stars, numbers + (", and it does not do the task" if row in stars else "")

    def safe(row: str) -> tuple[bool, str]:
        holds, numbers = unsafe(row)
        return not holds and row not in stars, numbers

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


def _attacked(cells: dict[str, Cell]) -> float:
    return max(cells["mc"].cost.mean, cells["mr"].cost.mean)


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
