"""An evaluation in words that need no paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harden.attacks import ATTACKS
from harden.evaluation.trajectories import headline

# a guaranteed move, in halves of an action's range, that says next to nothing
_VACUOUS = 1.5
# none of 20 episodes over the limit still leaves up to 17 % of all of them
_EPISODES = 20
# that a second opinion is weak takes nothing from the first; too few episodes are counted here anyway
_NO_OBJECTION = ("saw-no-cost", "falls-short", "too-few-episodes")


def _name(one: dict[str, Any]) -> str:
    named = "the worst attack of each start" if one["attack"] == "worst" else one["attack"]
    return f"{named} at epsilon {one['epsilon']:g}"


def _interval(value: dict[str, Any]) -> str:
    low, high = value.get("ci95", (value["mean"], value["mean"]))
    return f"95 % interval {low:.1f} to {high:.1f}"


def meant_radius(evaluation: dict[str, Any]) -> float | None:
    """Return the radius that the policy is meant to withstand, None where the file does not say."""
    return evaluation.get("threat_model", {}).get("epsilon")


def _beyond(evaluation: dict[str, Any], radius: float | None, told: dict[str, Any]) -> str:
    """Say from which radius on the limit is broken, where others than the one told of were tried."""
    limit = evaluation["cost_limit"]
    broken = [one for one in evaluation["results"] if one["cost"]["mean"] > limit and one["epsilon"]]
    first = min(broken, key=lambda o: (o["epsilon"], -o["cost"]["mean"]), default=None)
    if first is not None and radius is not None and first["epsilon"] < radius * (1 - 1e-9):
        return "" if first is told else f" Already {_name(first)} costs {first['cost']['mean']:.1f}."
    larger = [o for o in evaluation["results"] if radius is not None and o["epsilon"] > radius * (1 + 1e-9)]
    if not larger:
        return ""
    if first is None:
        furthest = max(o["epsilon"] for o in larger)
        return f" It stayed within the limit up to epsilon {furthest:g}, the furthest that was tried."
    if first["epsilon"] <= (radius or 0.0) * (1 + 1e-9):
        return ""
    return f" Beyond that radius: {_name(first)} costs {first['cost']['mean']:.1f}."


def _alike(results: Sequence[dict[str, Any]], worst: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the attacks of the same radius under which the policy costs as much, the worst one included."""
    same = {
        one["attack"]: one
        for one in results
        if one["attack"] not in ("natural", "worst")
        and (one["epsilon"], one["cost"]) == (worst["epsilon"], worst["cost"])
    }
    return [worst, *(one for name, one in same.items() if name != worst["attack"])]


def _equal(epsilon: float, radius: float) -> bool:
    return abs(epsilon - radius) < 1e-12


def _warned(evaluation: dict[str, Any], radius: float) -> tuple[int, list[str]]:
    """Return how many warnings speak against what was found at a radius, and which attacks were blind."""
    # a curve's other radii have warnings of their own; some warnings are of no radius
    at = [w for w in evaluation.get("warnings", []) if not w.get("epsilon") or _equal(w["epsilon"], radius)]
    blind = [one["attack"] for one in at if one["check"] == "saw-no-cost"]
    return sum(one["check"] not in _NO_OBJECTION for one in at), blind


def _missing(evaluation: dict[str, Any], radius: float) -> list[str]:
    """Return what keeps an evaluation from showing that a policy holds at a radius, in words."""
    attacks = {
        one["attack"]: one
        for one in evaluation["results"]
        if one["attack"] in ATTACKS and _equal(one["epsilon"], radius)
    }
    if not attacks or not radius:
        return ["nothing was attacked"]
    lacks, episodes = [], evaluation["episodes"]
    if episodes < _EPISODES:
        lacks.append(f"only {episodes} episodes were run, and fewer than {_EPISODES} show little")
    if not any(ATTACKS[name].noise for name in attacks):
        lacks.append("no random noise of that size was tried (random or gaussian)")
    climbing = [
        name
        for name, one in attacks.items()
        if ATTACKS[name].climbs and ATTACKS[name].aim == ("cost", 1) and one["steps"]
    ]
    against, blind = _warned(evaluation, radius)
    if not climbing:
        lacks.append("no attack that climbs towards cost was tried (such as mc)")
    elif not set(climbing) - set(blind):
        lacks.append(f"{_listed(climbing)} climbed critics that never saw a cost, and can't know the way")
    if against:
        lacks.append(f"{against} warning{'s' * (against != 1)} below speak{'s' * (against == 1)} against it")
    return lacks


def _listed(names: Sequence[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last


def _status(
    worst: dict[str, Any], evaluation: dict[str, Any], radius: float | None, under: str
) -> tuple[str, str]:
    """Return the outcome and its headline."""
    cost, limit = worst["cost"], evaluation["cost_limit"]
    found = f"{cost['mean']:.1f} {under}"
    if cost["mean"] > limit:
        return "fails", f"Not safe: {found}, exceeds the limit of {limit:g}."
    if radius is not None and worst["attack"] != "natural" and worst["epsilon"] < radius * (1 - 1e-9):
        return "close", f"Not shown: {found}, but nothing was tried at epsilon {radius:g}, which is meant."
    lacks = _missing(evaluation, worst["epsilon"])
    if lacks:
        return "close", f"Not shown: {found}, stays within the limit of {limit:g}, but {'; '.join(lacks)}."
    if cost.get("ci95", (0, cost["mean"]))[1] > limit or worst.get("violation_rate", 0.0) > 0:
        return "close", f"Just within: {found}, stays within the limit of {limit:g} on average only."
    return "holds", f"Held: {found}, stays within the limit of {limit:g}."


def _warnings(evaluation: dict[str, Any], radius: float) -> list[str]:
    """Return what the warnings come to, in sentences."""
    (against, blind), said = _warned(evaluation, radius), []
    if against:
        said.append(
            f"{against} warning{'s' * (against != 1)} below speak{'s' * (against == 1)} against believing "
            "these numbers."
        )
    if blind:
        said.append(f"{_listed(blind)} never saw a cost to learn from: finding none is no evidence.")
    counted = [one for one in evaluation.get("warnings", []) if one["check"] != "too-few-episodes"]
    more = len(counted) - against - len(blind)
    if more:
        said.append(
            f"{more} warning{'s' * (more != 1)} below {'is' if more == 1 else 'are'} about other radii or "
            "weaker searches."
        )
    return said


def _episodes(worst: dict[str, Any], alike: Sequence[dict[str, Any]], natural: dict[str, Any]) -> str:
    """Return what the episodes under the worst attack were like, and those without."""
    share = f"{100 * worst.get('violation_rate', 0.0):.0f} % of the episodes were over the limit"
    if "violation_ci95" in worst:
        low, high = (100 * bound for bound in worst["violation_ci95"])
        count = len(worst["per_episode"])
        share += f" (from {count} episodes it may be {low:.0f} to {high:.0f} % of all, at 95 %)"
    text = [f"That is the highest mean cost of an episode found ({_interval(worst['cost'])});", share]
    if "worst_episode" in worst:
        text.append(f"and the worst of them cost {worst['worst_episode']['cost']:.0f}")
    text[-1] += "."
    without = f"Without an attack the reward is {natural['reward']['mean']:.0f} and the cost "
    without += f"{natural['cost']['mean']:.1f}"
    rewards = sorted(one["reward"]["mean"] for one in alike)
    if worst is natural:
        return " ".join([*text, f"{without}."])
    if len(alike) > 1:
        return " ".join(
            [*text, f"{without}; under those attacks it is {rewards[0]:.0f} to {rewards[-1]:.0f}."]
        )
    return " ".join([*text, f"{without}; under that attack the reward is {rewards[0]:.0f}."])


def _ended_early(worst: dict[str, Any], natural: dict[str, Any]) -> list[str]:
    """Return what is to be said of episodes that the dynamics cut short: no cost follows a fall."""
    rates = [100 * one.get("early_rate", 0.0) for one in (worst, natural)]
    if not any(rates):
        return []
    under = "" if worst is natural else f" under that attack, {rates[1]:.0f} % without one"
    return [
        f"{rates[0]:.0f} % of the episodes ended before their time limit{under}: a robot that falls costs "
        "nothing afterwards, so look at what ended them before you call it safe."
    ]


def _worst(evaluation: dict[str, Any], radius: float | None) -> dict[str, Any]:
    """Return the entry that decides: at the radius to withstand, or over the limit at less already."""
    results, limit = evaluation["results"], evaluation["cost_limit"]
    worst = headline(results, radius)
    inside = [
        one
        for one in results
        if radius is not None and one["epsilon"] < radius * (1 - 1e-9) and one["cost"]["mean"] > limit
    ]
    if worst["cost"]["mean"] > limit or not inside:
        return worst
    # who may go as far as the radius may also go less far
    return max(inside, key=lambda one: one["cost"]["mean"])


def verdict(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return an evaluation's outcome.

    Returns:
        {"status": "holds" | "close" | "fails", "headline", "text"}; close is a mean within the limit that
        chance or single episodes may put above it, or that too little was done to believe: fewer than 20
        episodes, no noise or no gradient attack on cost at the radius to withstand, or a warning against it.
    """
    results, radius = evaluation["results"], meant_radius(evaluation)
    worst = _worst(evaluation, radius)
    alike = _alike(results, worst)
    under = "without an attack" if worst["attack"] == "natural" else f"under {_name(worst)}"
    if len(alike) > 1:
        under += f" and under {len(alike) - 1} other attack{'s' * (len(alike) > 2)}"
    status, says = _status(worst, evaluation, radius, under)
    text = [_episodes(worst, alike, results[0]), *_ended_early(worst, results[0])]
    tried = {one["attack"] for one in results} - {"natural", "worst"}
    if not tried:
        text.append("No attack was tried, so that this says nothing about wrong sensors.")
    elif status != "fails":
        text.append(
            f"{len(tried)} kind{'s' * (len(tried) != 1)} of attack {'was' if len(tried) == 1 else 'were'} "
            "tried; nobody can promise that there is no stronger one."
        )
    text += _warnings(evaluation, worst["epsilon"])
    missing = sum(made == 0 for made in evaluation.get("checks", {}).values())
    if missing and tried:
        text.append(f"{missing} of the checks of the attacks could not be made: see below.")
    return {"status": status, "headline": says, "text": " ".join(text) + _beyond(evaluation, radius, worst)}


def certain(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the certificate in words, None for a file that knows of none."""
    found = evaluation.get("certificate")
    if not found:
        if "certificate" not in evaluation:
            return None
        missing = (
            "the layers of this policy are not known" if evaluation["results"][1:] else "nothing was attacked"
        )
        return {"text": f"Nothing beside the attacks: {missing}.", "rows": [], "theorems": ""}
    bound, moved, theorems = found["guaranteed"], found["found"], found["theorems"]
    text = (
        f"In {found['states']} states that the policy visits, arithmetic on its network (interval bound "
        "propagation) "
        f"gives how far any attack within epsilon {found['epsilon']:g} can move an action. In the median "
        "state the "
        f"guarantee is {bound['median'] / max(moved['median'], 1e-9):.1f} times what attacks reached. "
    )
    text += (
        "No attack went beyond it."
        if not found["exceeded"]
        else f"Attacks went beyond it in {found['exceeded']} states: something is wrong with one of the two."
    )
    worse = min(theorems["theorem_1"], theorems["theorem_2"]) > theorems["trivial"]
    if bound["median"] > _VACUOUS:
        text += (
            " The guarantee itself is loose: 200 % is the whole range of an action, and it allows nearly all "
            "of it."
        )
    loose = (
        "Both are above what no policy can exceed: they are true and say nothing here."
        if worse
        else "The lower of them says something."
    )
    said = (
        "The paper's two theorems bound the discounted cost under any attack. With what was measured "
        "here, taking the "
        f"last training step to have changed nothing, Theorem 1 gives {theorems['theorem_1']:,.0f} and "
        "Theorem 2 gives "
        f"{theorems['theorem_2']:,.0f}. No policy at all can cost more than {theorems['trivial']:.1f}; "
        "what attacks "
        f"found is about {theorems['measured']:.2f}, and the limit {theorems['kappa']:.2f}. {loose}"
    )
    return {"text": text, "rows": [("guaranteed", bound), ("found by attacks", moved)], "theorems": said}
