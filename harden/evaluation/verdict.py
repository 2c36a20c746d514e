"""An evaluation in words that need no paper."""

from __future__ import annotations

from typing import Any

from harden.evaluation.trajectories import headline

MEANINGS = {
    "weaker-than-noise": "Such an attack proves nothing: somebody who shakes the sensors at random does "
    "more harm.",
    "vanishing-gradient": "Where its gradient is nothing, the attack has not been tried.",
    "hidden-gradient": "The policy looks safer to an attacker who trusts its own critics than it is.",
    "falling-cost": "A wider reach can't be worse for a good attacker: the numbers at the wider one are "
    "too low.",
    "no-plateau": "The attack was not yet at its strongest.",
    "too-few-episodes": "Run more episodes before anybody relies on this.",
    "no-gradient": "An attacker who knows the policy from inside could do more.",
    "falls-short": "It is the second opinion that is weak here, not the attack it is compared with.",
}


def _name(one: dict[str, Any]) -> str:
    return f"{one['attack']} at epsilon {one['epsilon']:g}"


def _interval(value: dict[str, Any]) -> str:
    low, high = value.get("ci95", (value["mean"], value["mean"]))
    return f"95 % interval {low:.1f} to {high:.1f}"


def meant_radius(evaluation: dict[str, Any]) -> float | None:
    """Return the radius that the policy is meant to withstand, None where the file does not say."""
    return evaluation.get("threat_model", {}).get("epsilon")


def _beyond(evaluation: dict[str, Any], radius: float | None) -> str:
    """Say from which larger radius on the limit is broken, where larger ones were tried."""
    limit = evaluation["cost_limit"]
    larger = [o for o in evaluation["results"] if radius is not None and o["epsilon"] > radius * (1 + 1e-9)]
    if not larger:
        return ""
    broken = sorted((o for o in larger if o["cost"]["mean"] > limit), key=lambda o: o["epsilon"])
    if not broken:
        furthest = max(o["epsilon"] for o in larger)
        return f" It stayed within the limit up to epsilon {furthest:g}, the furthest that was tried."
    first = broken[0]
    return f" Beyond that radius: {_name(first)} costs {first['cost']['mean']:.1f}."


def verdict(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return an evaluation's outcome.

    Returns:
        {"status": "holds" | "close" | "fails", "headline", "text"}; close is a mean within the
        limit that chance or single episodes may put above it.
    """
    results, limit = evaluation["results"], evaluation["cost_limit"]
    natural, radius = results[0], meant_radius(evaluation)
    worst = headline(results, radius)
    cost, share = worst["cost"], 100 * worst.get("violation_rate", 0.0)
    high = cost.get("ci95", (0, cost["mean"]))[1]
    alone = worst["attack"] == "natural"
    under = "without an attack" if alone else f"under {_name(worst)}"
    if cost["mean"] > limit:
        status, says = "fails", f"Not safe: {cost['mean']:.1f} {under}, exceeds the limit of {limit:g}."
    elif high > limit or share > 0:
        status = "close"
        says = (
            f"Just within: {cost['mean']:.1f} {under}, stays within the limit of {limit:g} on average only."
        )
    else:
        status, says = "holds", f"Held: {cost['mean']:.1f} {under}, stays within the limit of {limit:g}."
    text = [f"That is the highest mean cost of an episode found ({_interval(cost)});"]
    text.append(f"{share:.0f} % of the episodes were over the limit")
    if "worst_episode" in worst:
        text.append(f"and the worst of them cost {worst['worst_episode']['cost']:.0f}")
    text[-1] += "."
    text.append(
        f"Without an attack the reward is {natural['reward']['mean']:.0f} and the cost "
        f"{natural['cost']['mean']:.1f}"
        + ("." if alone else f"; under that attack the reward is {worst['reward']['mean']:.0f}.")
    )
    tried = {one["attack"] for one in results} - {"natural", "worst"}
    if alone:
        text.append("No attack was tried, so that this says nothing about wrong sensors.")
    elif status != "fails":
        text.append(
            f"{len(tried)} kind{'s' * (len(tried) != 1)} of attack were tried; nobody can promise that "
            "there is "
            "no stronger one."
        )
    count = len(evaluation.get("warnings", []))
    if count:
        text.append(f"{count} warning{'s' * (count != 1)} below speak against believing these numbers.")
    return {"status": status, "headline": says, "text": " ".join(text) + _beyond(evaluation, radius)}


def threat(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the threat model as a sentence and a row a sensor value, None for a file without one."""
    model = evaluation.get("threat_model")
    if not model or not model["epsilon_over_std"]:
        return None
    radius = model.get("epsilon") or model["epsilon_over_std"][-1]["epsilon"]
    shape = (
        "each sensor value by at most epsilon, all of them at once"
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
        f"Attacks that ask critics, the learned predictions of cost and reward, ask {asked or 'none'}."
    )
    if "surrogate_error" in critics:
        text += (
            " Those were learned with the help of a copy of the policy, whose actions differ from the "
            "policy's by "
            f"{critics['surrogate_error']:.2g} (root mean square)."
        )
    names = model.get("observations") or [f"value {i + 1}" for i in range(len(model["observation_std"]))]
    reaches = [radius * unit for unit in model.get("epsilon_unit") or [1.0] * len(names)]
    rows = [
        {"name": name, "epsilon": reach, "std": std, "share": reach / std if std > 0 else None}
        for name, reach, std in zip(names, reaches, model["observation_std"], strict=True)
    ]
    return {"text": text, "rows": rows}


def certain(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the certificate in words, None for a file without one."""
    found = evaluation.get("certificate")
    if not found:
        return None
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
