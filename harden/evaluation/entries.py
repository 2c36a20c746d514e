"""What an evaluation file says of each attack, and the worst over several; the statistics over episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harden.attacks import PaperStrength, Strength
from harden.config.attacks import ATTACKS, NATURAL, WORST
from harden.config.tasks import Task
from harden.envs.rollout import Rollout

_RESAMPLES = 9999


def summarise(values: np.ndarray) -> dict[str, Any]:
    """Return mean, standard deviation and a 95 % bootstrap interval of the mean.

    Args:
        values: one number an episode, (N,).

    Returns:
        {"mean", "std", "ci95": [low, high]}; the deviation is the sample's (N - 1), 0 for one episode.
    """
    from scipy import stats

    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if std == 0.0:
        return {"mean": mean, "std": std, "ci95": [mean, mean]}
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return {"mean": mean, "std": std, "ci95": [float(interval.low), float(interval.high)]}


def violation_interval(costs: np.ndarray, cost_limit: float) -> list[float]:
    """Return an exact 95 % interval of the share of all episodes whose cost is above the limit.

    A bootstrap of episodes none of which is above it would say that none ever is.

    Source: Clopper and Pearson 1934.
    """
    from scipy import stats

    interval = stats.binomtest(int(np.sum(costs > cost_limit)), len(costs)).proportion_ci(0.95)
    return [float(interval.low), float(interval.high)]


def paired(
    episodes: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], quantity: str
) -> dict[str, Any]:
    """Return the summary of a difference, episode by episode: the start that both share cancels out.

    Args:
        episodes, others: `per_episode` of two entries; those of seeds that both have are compared.
        quantity: "cost" or "reward".

    Returns:
        As `summarise`, of the first less the second.
    """
    second = {episode["seed"]: episode[quantity] for episode in others}
    pairs = [(e[quantity], second[e["seed"]]) for e in episodes if e["seed"] in second]
    first, other = np.array(pairs, dtype=np.float64).T
    return summarise(first - other)


class Trial(NamedTuple):
    """How a policy is tried.

    Args:
        episodes: how many; their seeds are the same for every attack and policy.
        epsilon: radius, raw observation units.
        strength: of the gradient attacks.
        action: act with the policy's "mean" or a "sample".
        seed: of the episodes and the attacks.
        amad_share: share of the natural states, those with the highest Q_c, that a gated attack acts in.
        gradients: the policy gives them; without, attacks that climb search by values instead.
    """

    episodes: int
    epsilon: float
    strength: Strength | PaperStrength
    action: str
    seed: int
    amad_share: float = 0.25
    gradients: bool = True


# how an attack climbs, where it does
_CLIMB = ("style", "steps", "restarts", "starts", "step_share", "rate", "stop_value", "stop_move")


def settings(name: str, trial: Trial) -> dict[str, Any]:
    """Return how an attack is made, as its entry says it."""
    attack = ATTACKS.get(name)
    strength = trial.strength
    climbs = attack is not None and attack.climbs and trial.gradients
    searches = attack is not None and ("black-box" in (name, *attack.candidates) or attack.climbs > climbs)
    made: dict[str, Any] = {
        "attack": name,
        "style": strength.style if climbs else attack.style or "evolution" if attack else None,
        "norm": strength.norm,
        "epsilon": 0.0 if name == NATURAL else trial.epsilon,
        "steps": strength.steps if climbs else 0,
        "restarts": strength.restarts if climbs else 0,
        "critics": attack.critics if attack else None,
    }
    if climbs and isinstance(strength, PaperStrength):
        made |= {"rate": strength.rate, "stop_value": strength.stop_value, "stop_move": strength.stop_move}
    elif climbs and isinstance(strength, Strength):
        made |= {"starts": strength.starts, "step_share": strength.step_share}
    if searches:
        made["queries"] = strength.queries
    if attack and attack.gated:
        made["share"] = trial.amad_share
    return made


def _figures(
    episodes: Sequence[dict[str, Any]], task: Task, natural: dict[str, Any] | None
) -> dict[str, Any]:
    costs = np.array([episode["cost"] for episode in episodes])
    over: dict[str, Any] = {}
    if natural is not None:
        before = natural["per_episode"]
        over["over_natural"] = {name: paired(episodes, before, name) for name in ("reward", "cost")}
    return over | {
        "reward": summarise(np.array([episode["reward"] for episode in episodes])),
        "cost": summarise(costs),
        "violation_rate": float(np.mean(costs > task.cost_limit)),
        "violation_ci95": violation_interval(costs, task.cost_limit),
        # what a robot that falls would still have cost is counted nowhere else
        "early_rate": float(np.mean([episode["length"] < task.horizon for episode in episodes])),
        "worst_episode": dict(episodes[int(costs.argmax())]),
        "per_episode": list(episodes),
    }


def entry(
    facts: dict[str, Any], task: Task, run: Rollout, natural: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an attack's entry.

    Args:
        facts: its settings, and how it searched.
        run: its episodes.
        natural: the natural entry, which it is compared with episode by episode; None for that one itself.
    """
    episodes = [
        {"seed": int(seed), "reward": float(reward), "cost": float(cost), "length": int(length)}
        for seed, reward, cost, length in zip(run.seeds, run.rewards, run.costs, run.lengths, strict=True)
    ]
    return facts | _figures(episodes, task, natural)


def worst_entry(trial: Trial, task: Task, over: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of the costliest episode of each seed, which names the attack that it is under.

    Args:
        over: the entries that it is taken over, natural first; of equally costly ones the first counts.
    """
    named = [[episode | {"attack": row["attack"]} for episode in row["per_episode"]] for row in over]
    episodes = [max(same_seed, key=lambda e: e["cost"]) for same_seed in zip(*named, strict=True)]
    climbing = next((row for row in over if row["steps"]), {})
    facts = settings(WORST, trial) | {name: climbing[name] for name in _CLIMB if name in climbing}
    return facts | {"over": [row["attack"] for row in over]} | _figures(episodes, task, over[0])


def table(results: Sequence[dict[str, Any]], cost_limit: float) -> str:
    """Return the results as a text table."""
    lines = [
        f"{'attack':<15} {'epsilon':>7} {'effort':>14} {'reward':>16} {'cost':>16} {'worst':>6} "
        f"{'violations':>11} {'early':>6}"
    ]
    for row in results:
        reward, cost = row["reward"], row["cost"]
        effort = f"{row['queries']} queries" if row.get("queries") else ""
        if row["steps"]:
            effort = f"{row['steps']} x {row['restarts']}"
        lines.append(
            f"{row['attack']:<15} {row['epsilon']:>7g} {effort:>14} "
            f"{reward['mean']:>8.1f} ± {reward['std']:>5.1f} "
            f"{cost['mean']:>8.2f} ± {cost['std']:>5.2f} {row['worst_episode']['cost']:>6.0f} "
            f"{100 * row['violation_rate']:>9.0f} % {100 * row['early_rate']:>4.0f} %"
        )
    lines.append(f"cost limit {np.format_float_positional(cost_limit, trim='-')} an episode")
    return "\n".join(lines)
