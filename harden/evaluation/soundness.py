"""What an evaluation's checks of itself mean to a reader, those included that could not be made."""

from __future__ import annotations

from typing import Any

MEANINGS = {
    "weaker-than-noise": "Such an attack proves nothing: somebody who shakes the sensors at random does "
    "more harm.",
    "vanishing-gradient": "Where its gradient is nothing, the attack has not been tried.",
    "weak-search": "What it did not find is no evidence: looking around blindly finds more.",
    "hidden-gradient": "The policy looks safer to an attacker who trusts its own critics than it is.",
    "saw-no-cost": "That such an attack does no harm is no evidence: nothing ever showed it where harm is.",
    "falling-cost": "A wider reach can't be worse for a good attacker: the numbers at the wider one are "
    "too low.",
    "no-plateau": "The attack was not yet at its strongest.",
    "too-few-episodes": "Run more episodes before anybody relies on this.",
    "no-gradient": "An attacker who knows the policy from inside could do more.",
    "does-nothing": "A robot that does nothing is safe, and of no use.",
    "falls-short": "It is the second opinion that is weak here, not the attack it is compared with.",
}
# what each check asks, and what an evaluation needs for it
CHECKS = {
    "weaker-than-noise": (
        "Does every attack do more than random noise of the same size?",
        "random or gaussian beside an attack, five episodes, and some cost among them",
    ),
    "vanishing-gradient": (
        "Does the slope that an attack climbs lead anywhere?",
        "an attack with gradients",
    ),
    "weak-search": (
        "Does an attack find more than blind guesses do, by what it climbs itself?",
        "an attack that searches",
    ),
    "hidden-gradient": (
        "Does an attack that needs no gradient of the policy's own critics do more?",
        "mc with black-box, critic-free or mc-independent, five episodes, and some cost among them",
    ),
    "saw-no-cost": (
        "Did what an attack was learned from ever show it a cost?",
        "learned, critic-free or mc-independent",
    ),
    "falling-cost": (
        "Does the cost ever fall as the attacker's reach grows?",
        "an attack on cost, five episodes, and some cost among them",
    ),
    "no-plateau": (
        "Would more effort find more?",
        "--curves or several values of --attack-steps or --restarts, five episodes, and some cost among them",
    ),
    "falls-short": (
        "Do a search without gradients and an adversary that plans find as much?",
        "mc with black-box or learned, five episodes, and some cost among them",
    ),
}


def soundness(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the warnings with their meaning, and what each check looked at.

    Returns:
        {"warnings", "checks", "missing"}: checks is a row {"asks", "outcome"} a check, empty for a file that
        does not say which were made; missing is how many could not be made.
    """
    told = evaluation.get("warnings", [])
    fired = [one["check"] for one in told]
    made, rows = evaluation.get("checks", {}), []
    for name, count in made.items():
        asks, needs = CHECKS[name]
        outcome = f"not looked at: needs {needs}"
        if count:
            found = fired.count(name)
            outcome = f"{count} comparison{'s' * (count != 1)}, "
            outcome += f"{found} warning{'s' * (found != 1)}" if found else "nothing found"
        rows.append({"name": name, "asks": asks, "outcome": outcome, "made": bool(count)})
    warnings = [one | {"meaning": MEANINGS.get(one["check"], "")} for one in told]
    return {"warnings": warnings, "checks": rows, "missing": sum(not row["made"] for row in rows)}
