"""The breaking radius: the smallest epsilon at which an attack takes the mean cost over the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from harden.config.tasks import Task
from harden.envs.rollout import Progress, Simulate, rollout
from harden.evaluation.entries import Trial, settings
from harden.evaluation.trials import Tried, Victim, actor, threshold_of
from harden.progress import QUIET, Reporter

# of the task's radius: how far is searched, and how far from the true place the answer may be
_MOST, _TOLERANCE = 4.0, 0.05

# a row of an evaluation file's `breaking_radius`
Row = dict[str, Any]


class Broken(NamedTuple):
    """What a search found.

    Args:
        epsilon: a radius at which the cost is above the limit, 0 where it is so unattacked; None where it is
            within the limit at every radius tried.
        below: the largest radius tried below that, where the cost is within the limit; None for 0.
        costs: the cost at every radius known, the smallest first.
    """

    epsilon: float | None
    below: float | None
    costs: dict[float, float]


def breaking_radius(
    cost_at: Callable[[float], float],
    limit: float,
    radius: float,
    known: Mapping[float, float],
    most: float = _MOST,
    tolerance: float = _TOLERANCE,
) -> Broken:
    """Return the smallest radius at which a cost passes a limit, by doubling and then by bisection.

    The radii known, and 1, 2, 4, ... times `radius`, are gone through from below up to the first whose cost
    is above the limit; between that one and the one before it, the interval is halved.

    A cost need not grow with the radius. What is returned always is a radius whose cost is above the limit,
    while it is not at another one that is smaller by at most the tolerance; and every radius known below it
    is within the limit. That it is the smallest of all such is only so for a cost that grows.

    Args:
        cost_at: the mean cost at a radius; it is asked at none twice, and at none of those known.
        limit: above which the cost has passed it.
        radius: the scale of the search, above 0: the task's.
        known: costs measured before, by radius; the unattacked one, at 0, among them.
        most: nothing beyond this many times `radius` is asked.
        tolerance: of the answer, as a share of `radius`.
    """
    costs, below, epsilon = dict(known), 0.0, 0.0
    ladder, rung = set(known), radius
    while rung <= most * radius:
        ladder.add(rung)
        rung *= 2

    def passed(epsilon: float) -> bool:
        if epsilon not in costs:
            costs[epsilon] = cost_at(epsilon)
        return costs[epsilon] > limit

    for epsilon in sorted(ladder):
        if passed(epsilon):
            break
        below = epsilon
    else:
        return Broken(None, below, dict(sorted(costs.items())))
    # of rounding alone, a width of exactly the tolerance would be halved once more
    while epsilon - below > tolerance * radius * (1 + 1e-9):
        middle = (below + epsilon) / 2
        if passed(middle):
            epsilon = middle
        else:
            below = middle
    return Broken(epsilon, below if epsilon > 0 else None, dict(sorted(costs.items())))


def breaking_radii(
    prepared: Callable[[str, Trial], Victim],
    task: Task,
    attacks: Sequence[str],
    trial: Trial,
    tried: Tried,
    *,
    simulate: Simulate,
    device: torch.device,
    report: Reporter = QUIET,
) -> list[Row]:
    """Return each attack's breaking radius, on the episodes of an evaluation.

    Args:
        prepared: the policy with what an attack asks in a trial, by the attack's name.
        task: simulation, cost limit, and the radius that is the scale of the search.
        attacks: names; natural and worst are none that a radius belongs to.
        trial: how hard each attack tries; its epsilon is left aside.
        tried: what the evaluation found: its entries of equal effort are not run again.
        simulate, device, report: as in `evaluate_policy`.

    Returns:
        For each attack its settings, and "epsilon", "tried_up_to", "holds_at" (the radius below), the mean
        costs "cost_above" and "cost_below" at those two, None where there is none, and the points "tried".
    """
    natural, obs = tried.entries[0], tried.natural_obs.to(device)
    seeds, rows = [episode["seed"] for episode in natural["per_episode"]], list[Row]()
    with (
        simulate(len(seeds)) as envs,
        report.track("breaking radius", len(attacks), "attacks") as track,
    ):
        for name in attacks:

            def cost_at(epsilon: float, name: str = name) -> float:
                def progress(now: Progress) -> None:
                    track(len(rows), f"{name} at epsilon {epsilon:.3g}: {now}")

                at = trial._replace(epsilon=epsilon)
                victim = prepared(name, at).to(device)
                threshold = threshold_of(name, victim, at, obs)
                run = rollout(envs, actor(name, victim, at, task, device, threshold), seeds, progress)
                return float(run.costs.mean())

            known = {0.0: natural["cost"]["mean"]} | _measured(name, trial, tried.entries)
            found = breaking_radius(cost_at, task.cost_limit, task.epsilon, known)
            rows.append(settings(name, trial) | _row(found))
    return rows


def _measured(name: str, trial: Trial, entries: Sequence[Row]) -> dict[float, float]:
    """Return the mean costs by radius of an attack's entries that were made as the trial says."""
    costs = {}
    for entry in entries:
        made = settings(name, trial._replace(epsilon=entry["epsilon"]))
        if all(entry.get(key) == value for key, value in made.items()):
            costs[entry["epsilon"]] = entry["cost"]["mean"]
    return costs


def _row(found: Broken) -> Row:
    epsilon, below, costs = found
    return {
        "epsilon": epsilon,
        "tried_up_to": max(costs),
        "holds_at": below,
        "cost_below": None if below is None else costs[below],
        "cost_above": None if epsilon is None else costs[epsilon],
        "tried": [{"epsilon": at, "cost": cost} for at, cost in costs.items()],
    }


def radius_words(row: Row) -> str:
    """Return a breaking radius for a reader: a number, or above which one it is."""
    return f"above {row['tried_up_to']:.3g}" if row["epsilon"] is None else f"{row['epsilon']:.3g}"


def radius_table(rows: Sequence[Row]) -> str:
    """Return breaking radii as a text table."""
    lines = [f"{'breaking radius':<15} {'epsilon':>12} {'cost':>8} {'held at':>9} {'cost':>8}"]
    for row in rows:
        below, *costs = (row[key] for key in ("holds_at", "cost_above", "cost_below"))
        above, under = ("–" if cost is None else f"{cost:.2f}" for cost in costs)
        held = "–" if below is None else f"{below:.3g}"
        lines.append(f"{row['attack']:<15} {radius_words(row):>12} {above:>8} {held:>9} {under:>8}")
    return "\n".join(lines)
