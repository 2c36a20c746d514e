"""An evaluation in words that need no paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harden.evaluation.trajectories import headline

# a guaranteed move, in halves of an action's range, that says next to nothing
_VACUOUS = 1.5


def _name(one: dict[str, Any]) -> str:
    named = "the worst attack of each start" if one["attack"] == "worst" else one["attack"]
    return f"{named} at epsilon {one['epsilon']:g}"


def _interval(value: dict[str, Any]) -> str:
    low, high = value.get("ci95", (value["mean"], value["mean"]))
    return f"95 % interval {low:.1f} to {high:.1f}"


def meant_radius(evaluation: dict[str, Any]) -> float | None:
    """Return the radius that the policy is meant to withstand, None where the file does not say."""
    return evaluation.get("threat_model", {}).get("epsilon")


def _beyond(evaluation: dict[str, Any], radius: float | None) -> str:
    """Say from which radius on the limit is broken, where others than that one were tried."""
    limit = evaluation["cost_limit"]
    broken = [one for one in evaluation["results"] if one["cost"]["mean"] > limit and one["epsilon"]]
    first = min(broken, key=lambda o: (o["epsilon"], -o["cost"]["mean"]), default=None)
    if first is not None and radius is not None and first["epsilon"] < radius * (1 - 1e-9):
        return f" Already {_name(first)} costs {first['cost']['mean']:.1f}."
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


def _status(worst: dict[str, Any], limit: float, radius: float | None, under: str) -> tuple[str, str]:
    """Return the outcome and its headline."""
    cost = worst["cost"]
    found = f"{cost['mean']:.1f} {under}"
    if cost["mean"] > limit:
        return "fails", f"Not safe: {found}, exceeds the limit of {limit:g}."
    if radius is not None and worst["attack"] != "natural" and worst["epsilon"] < radius * (1 - 1e-9):
        return "close", f"Not shown: {found}, but nothing was tried at epsilon {radius:g}, which is meant."
    if cost.get("ci95", (0, cost["mean"]))[1] > limit or worst.get("violation_rate", 0.0) > 0:
        return "close", f"Just within: {found}, stays within the limit of {limit:g} on average only."
    return "holds", f"Held: {found}, stays within the limit of {limit:g}."


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


def verdict(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return an evaluation's outcome.

    Returns:
        {"status": "holds" | "close" | "fails", "headline", "text"}; close is a mean within the limit that
        chance or single episodes may put above it, or one at less than the radius to withstand.
    """
    results, radius = evaluation["results"], meant_radius(evaluation)
    worst = headline(results, radius)
    alone, alike = worst["attack"] == "natural", _alike(results, worst)
    under = "without an attack" if alone else f"under {_name(worst)}"
    if len(alike) > 1:
        under += f" and under {len(alike) - 1} other attack{'s' * (len(alike) > 2)}"
    status, says = _status(worst, evaluation["cost_limit"], radius, under)
    text = [_episodes(worst, alike, results[0])]
    tried = {one["attack"] for one in results} - {"natural", "worst"}
    if alone:
        text.append("No attack was tried, so that this says nothing about wrong sensors.")
    elif status != "fails":
        text.append(
            f"{len(tried)} kind{'s' * (len(tried) != 1)} of attack {'was' if len(tried) == 1 else 'were'} "
            "tried; nobody can promise that there is no stronger one."
        )
    count = len(evaluation.get("warnings", []))
    if count:
        text.append(
            f"{count} warning{'s' * (count != 1)} below speak{'s' * (count == 1)} against believing these "
            "numbers."
        )
    missing = sum(made == 0 for made in evaluation.get("checks", {}).values())
    if missing and not alone:
        text.append(f"{missing} of the checks of the attacks could not be made: see below.")
    return {"status": status, "headline": says, "text": " ".join(text) + _beyond(evaluation, radius)}


def _others(evaluation: dict[str, Any]) -> str:
    """Name the attacks that ask critics other than the policy's own."""
    by_kind: dict[str, list[str]] = {"independent": [], "learned": []}
    for one in evaluation["results"]:
        names = by_kind.get(one.get("critics") or "", [])
        if one["attack"] not in names:
            names.append(one["attack"])
    words = {
        "independent": "critics fitted here without the policy's own",
        "learned": "critics of its future",
    }
    asking = {kind: f"{' and '.join(names)} ask{'s' * (len(names) == 1)}" for kind, names in by_kind.items()}
    return "".join(f"; {asking[kind]} {words[kind]}" for kind, names in by_kind.items() if names)


def threat(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the threat model as a sentence and a row a sensor value, None for a file without one."""
    model = evaluation.get("threat_model")
    if not model or not model["epsilon_over_std"]:
        return None
    radius = model.get("epsilon") or model["epsilon_over_std"][-1]["epsilon"]
    shape = (
        "each sensor value by at most epsilon, all of them at once (l-infinity),"
        if model["norm"] == "linf"
        else "all sensor values together, within a ball of radius epsilon (l2)"
    )
    critics = model.get("critics") or {}
    asked = critics.get("own")
    text = (
        f"At every step it sees the true values and shows the policy others: it may move {shape}, away "
        "from the true "
        f"ones, which it can't accumulate over time. Epsilon is {radius:g} in the sensors' own (raw) "
        "units. The policy "
        f"acts with its {'mean action' if evaluation['action'] == 'mean' else 'actions drawn at random'}. "
        f"Attacks that ask critics, the learned predictions of cost and reward, ask {asked or 'none'}"
        f"{_others(evaluation)}."
    )
    if "surrogate_error" in critics:
        text += (
            " Those were learned with the help of a copy of the policy, whose actions differ from the "
            "policy's by "
            f"{critics['surrogate_error']:.2g} (root mean square)."
        )
    names = model.get("observations") or [f"value {i + 1}" for i in range(len(model["observation_std"]))]
    reaches = [radius * unit for unit in model.get("epsilon_unit") or [1.0] * len(names)]
    data = model.get("data")
    spreads = data["observation_std"] if data else model["observation_std"]
    rows = [
        {"name": name, "epsilon": reach, "std": std, "share": reach / std if std > 0 else None}
        for name, reach, std in zip(names, reaches, spreads, strict=True)
    ]
    source = "the states of the episodes without an attack"
    if data:
        source = f"the {data['transitions']:,} states of {data['path']} (digest {data['digest'][:12]})"
    return {"text": text, "rows": rows, "source": source}


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
