"""What an evaluation shows: its outcome, what it lacks, and the figures that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harden.attacks import ATTACKS
from harden.evaluation.reference import DOES_NOTHING
from harden.evaluation.trajectories import headline

# none of 20 episodes over the limit still leaves up to 17 % of all of them
_EPISODES = 20
# that a second opinion is weak takes nothing from the first; the others are counted below by themselves
_NO_OBJECTION = ("saw-no-cost", "falls-short", "too-few-episodes", DOES_NOTHING)
_WORDS = {"fails": "Not safe", "close": "Just within", "holds": "Held"}

Entry = dict[str, Any]


def meant_radius(evaluation: dict[str, Any]) -> float | None:
    """Return the radius that the policy is meant to withstand, None where the file does not say."""
    return evaluation.get("threat_model", {}).get("epsilon")


def mark(entry: Entry, evaluation: dict[str, Any]) -> str:
    """Return how an attack's cost stands to the limit, which is also how a page colours it.

    Returns:
        "over": the mean is above the limit. "unsure": the mean is within, but the interval or a single
        episode is not, or fewer than 20 episodes were run, or the policy does nothing. "within": none of
        these.
    """
    cost, limit = entry["cost"], evaluation["cost_limit"]
    if cost["mean"] > limit:
        return "over"
    high = cost.get("ci95", (0.0, cost["mean"]))[1]
    doubt = high > limit or entry.get("violation_rate", 0.0) > 0 or evaluation["episodes"] < _EPISODES
    return "unsure" if doubt or idle(evaluation) else "within"


def idle(evaluation: dict[str, Any]) -> bool:
    """Return whether the evaluation found that the policy does nothing."""
    return any(one["check"] == DOES_NOTHING for one in evaluation.get("warnings", ()))


def _name(one: Entry) -> str:
    if one["attack"] == "natural":
        return "without an attack"
    named = "the worst attack of each start" if one["attack"] == "worst" else one["attack"]
    return f"under {named} at epsilon {one['epsilon']:g}"


def _below(epsilon: float, radius: float | None) -> bool:
    return radius is not None and epsilon < radius * (1 - 1e-9)


def _equal(epsilon: float, radius: float) -> bool:
    return abs(epsilon - radius) < 1e-12


def _warned(evaluation: dict[str, Any], radius: float) -> tuple[int, list[str]]:
    """Return how many warnings speak against what was found at a radius, and which attacks were blind."""
    # a curve's other radii have warnings of their own; some warnings are of no radius
    at = [w for w in evaluation.get("warnings", []) if not w.get("epsilon") or _equal(w["epsilon"], radius)]
    blind = [one["attack"] for one in at if one["check"] == "saw-no-cost"]
    return sum(one["check"] not in _NO_OBJECTION for one in at), list(dict.fromkeys(blind))


def _lacks(evaluation: dict[str, Any], worst: Entry, radius: float | None) -> list[str]:
    """Return what keeps an evaluation from showing that a policy holds at a radius, a line each."""
    if radius is not None and worst["attack"] != "natural" and _below(worst["epsilon"], radius):
        return [f"nothing was tried at epsilon {radius:g}, the task's"]
    attacks = {
        one["attack"]: one
        for one in evaluation["results"]
        if one["attack"] in ATTACKS and _equal(one["epsilon"], worst["epsilon"])
    }
    if not attacks or not worst["epsilon"]:
        return ["nothing was attacked"]
    lacks, episodes = [], evaluation["episodes"]
    if episodes < _EPISODES:
        lacks.append(f"episodes: {episodes} were run, and fewer than {_EPISODES} show little")
    if not any(ATTACKS[name].noise for name in attacks):
        lacks.append("noise: neither random nor gaussian was tried")
    climbing = [
        name
        for name, one in attacks.items()
        if ATTACKS[name].climbs and ATTACKS[name].aim == ("cost", 1) and one["steps"]
    ]
    against, blind = _warned(evaluation, worst["epsilon"])
    if not climbing:
        lacks.append("gradients: no attack that climbs towards cost was tried, such as mc")
    elif not set(climbing) - set(blind):
        lacks.append(f"costs: the critics that {', '.join(climbing)} climbed never saw one")
    if against:
        lacks.append(f"warnings: {against} below {'speak' if against > 1 else 'speaks'} against it")
    return lacks


def _worst(evaluation: dict[str, Any], radius: float | None) -> Entry:
    """Return the entry that decides: at the radius to withstand, or over the limit at less already."""
    results, limit = evaluation["results"], evaluation["cost_limit"]
    worst = headline(results, radius)
    inside = [one for one in results if _below(one["epsilon"], radius) and one["cost"]["mean"] > limit]
    if worst["cost"]["mean"] > limit or not inside:
        return worst
    # who may go as far as the radius may also go less far
    return max(inside, key=lambda one: one["cost"]["mean"])


def _percent(share: float, interval: Sequence[float] | None = None) -> str:
    text = f"{100 * share:.0f} %"
    return text if interval is None else f"{text} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def _figures(evaluation: dict[str, Any], worst: Entry, radius: float | None) -> list[tuple[str, str]]:
    """Return the numbers that the outcome rests on, by name."""
    natural, limit, results = evaluation["results"][0], evaluation["cost_limit"], evaluation["results"]
    rows = [("decides", _name(worst))]
    rows.append(
        ("its episodes over the limit", _percent(worst["violation_rate"], worst.get("violation_ci95")))
    )
    if "worst_episode" in worst:
        rows.append(("its costliest episode", f"{worst['worst_episode']['cost']:.0f}"))
    rows.append(
        ("reward, with and without it", " and ".join(f"{o['reward']['mean']:.0f}" for o in (worst, natural)))
    )
    early = [one.get("early_rate", 0.0) for one in (worst, natural)]
    if any(early):
        rows.append(("episodes that a fall ended, with and without it", " and ".join(map(_percent, early))))
    attacked = [one for one in results if one["epsilon"]]
    broken = [one for one in attacked if one["cost"]["mean"] > limit]
    if broken:
        first = min(broken, key=lambda one: (one["epsilon"], -one["cost"]["mean"]))
        rows.append(("over the limit from", f"{first['cost']['mean']:.1f} {_name(first)}"))
    elif radius is not None and any(one["epsilon"] > radius * (1 + 1e-9) for one in attacked):
        rows.append(("within the limit up to", f"epsilon {max(one['epsilon'] for one in attacked):g}"))
    blind = _warned(evaluation, worst["epsilon"])[1]
    if blind:
        rows.append(("never saw a cost, and so show nothing", ", ".join(blind)))
    kinds = {one["attack"] for one in results} - {"natural", "worst"}
    rows.append(("kinds of attack tried", str(len(kinds))))
    missing = sum(made == 0 for made in evaluation.get("checks", {}).values())
    if missing and kinds:
        rows.append(("checks of the attacks that could not be made", str(missing)))
    return rows


def verdict(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation's outcome.

    Returns:
        {"status": "holds" | "close" | "fails", "headline", "lacks", "figures"}; close is a mean within the
        limit that chance or single episodes may put above it, or of which too little is known, as the lines
        of `lacks` say: fewer than 20 episodes, no noise or no gradient attack on cost at the radius to
        withstand, a warning against it, or a policy that does nothing. Figures are pairs of a name and a
        text.
    """
    radius = meant_radius(evaluation)
    worst = _worst(evaluation, radius)
    outcome = mark(worst, evaluation)
    lacks = [] if outcome == "over" else _lacks(evaluation, worst, radius)
    if idle(evaluation):
        lacks.insert(0, "reward: the policy does nothing, and costs nothing by that")
    status = "fails" if outcome == "over" else "close" if lacks or outcome == "unsure" else "holds"
    word = "Not shown" if lacks and status == "close" else _WORDS[status]
    low, high = worst["cost"].get("ci95", (worst["cost"]["mean"],) * 2)
    said = f"{word}: cost {worst['cost']['mean']:.1f} {_name(worst)}"
    said += f" (95 % interval of the mean: {low:.1f} to {high:.1f}), limit {evaluation['cost_limit']:g}."
    figures = _figures(evaluation, worst, radius)
    return {"status": status, "headline": said, "lacks": lacks, "figures": figures}
