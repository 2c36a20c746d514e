"""Checks of an evaluation by itself: is there a sign that its attacks are weaker than they could be?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from harden.attacks import ATTACKS
from harden.evaluation.statistics import paired

# what each check compares
CHECKS = {
    "weaker-than-noise": "an attack with random and Gaussian noise of the same radius",
    "vanishing-gradient": "the share of states in which an attack's gradient vanishes, with 10 %",
    "weak-search": "an attack's gain in its own objective with that of 256 random guesses",
    "hidden-gradient": "attacks that need less of the policy's own critics with the one that climbs them",
    "poor-copy": "the action error of the copy of a policy that critics were fitted with, with 10 %",
    "saw-no-cost": "the cost in the episodes that an attack was learned from, with zero",
    "falling-cost": "the cost at a radius with the cost at a smaller one",
    "no-plateau": "the cost at the most effort with the cost at less",
    "falls-short": "black-box and learned with mc: a weak second opinion",
}
# fewer episodes give no interval worth comparing
_EPISODES = 5
# differences smaller than this share of the larger mean are not worth a warning
_MATTERS = 0.05
_FLAT_STATES, _COPY_ERROR = 0.1, 0.1
_RIVALS = {"mc": ("black-box", "critic-free", "mc-independent"), "mr": ("mr-independent",)}
# the share of mc's cost that a second opinion has to reach
_SECOND_OPINIONS = {"black-box": 0.8, "learned": 1.0}

Entry = dict[str, Any]
Warning = dict[str, Any]
# one for each comparison that could be made, None where there is nothing to warn of
Findings = Iterator[Warning | None]


class Checked(NamedTuple):
    """What the checks found.

    Args:
        warnings: {"check", "attack", "epsilon", "steps", "restarts", "message"} each.
        made: how many comparisons each check could make; a check that made none proves nothing.
    """

    warnings: list[Warning]
    made: dict[str, int]


def warning(check: str, entry: Entry, message: str) -> Warning:
    """Return a warning about an entry, in the form of the evaluation file."""
    point = {key: entry.get(key) for key in ("attack", "epsilon", "steps", "restarts")}
    return {"check": check, **point, "message": message}


def _label(entry: Entry, quantity: str) -> str:
    effort = f", {entry['steps']} x {entry['restarts']} steps" if entry["steps"] else ""
    return (
        f"{entry['attack']} (epsilon {entry['epsilon']:g}{effort}, {quantity} {entry[quantity]['mean']:.1f})"
    )


def _exceeds(more: Entry, less: Entry, quantity: str) -> bool:
    """Return whether one attack's mean is above another's, beyond chance and by enough to matter."""
    difference = paired(more["per_episode"], less["per_episode"], quantity)
    scale = max(abs(more[quantity]["mean"]), abs(less[quantity]["mean"]))
    return difference["ci95"][0] > 0 and difference["mean"] > _MATTERS * scale


def _compared(check: str, about: Entry, more: Entry, less: Entry, quantity: str, message: str) -> Findings:
    """Yield a warning where `more` exceeds `less`; no comparison where neither costs anything."""
    if quantity == "cost" and not more["cost"]["mean"] and not less["cost"]["mean"]:
        return
    yield warning(check, about, message) if _exceeds(more, less, quantity) else None


def _alike(results: Sequence[Entry], entry: Entry, names: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of some attacks of equal norm and radius, and equal effort where both have one."""
    wanted = set(names)
    for other in results:
        same = all(other[key] == entry[key] for key in ("norm", "epsilon"))
        effort = all(other[key] == entry[key] for key in ("style", "steps", "restarts"))
        if other["attack"] in wanted and same and (effort or not (entry["steps"] and other["steps"])):
            yield other


def strongest(results: Sequence[Entry]) -> list[Entry]:
    """Return the entries without those of which the same attack was tried harder: the points of a curve."""

    def effort(entry: Entry) -> list[int]:
        return [entry.get(name) or 0 for name in ("steps", "restarts", "queries")]

    def outdone(entry: Entry) -> bool:
        for other in results:
            same = all(entry.get(name) == other.get(name) for name in ("attack", "norm", "epsilon", "style"))
            more = [theirs - own for theirs, own in zip(effort(other), effort(entry), strict=True)]
            if same and min(more) >= 0 and max(more) > 0:
                return True
        return False

    return [entry for entry in results if not outdone(entry)]


def curves(results: Sequence[Entry], along: str, alone: bool = False) -> Iterator[list[Entry]]:
    """Yield the entries of each attack that differ in one setting only, in its order.

    Args:
        along: epsilon, steps, restarts or queries.
        alone: also those that differ from no other, which are no curve.
    """
    fixed = [k for k in ("attack", "norm", "epsilon", "style", "steps", "restarts", "queries") if k != along]
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in results:
        if entry["attack"] in ATTACKS and entry.get(along) is not None:
            groups.setdefault(tuple(entry.get(key) for key in fixed), []).append(entry)
    for group in groups.values():
        if alone or len(group) > 1:
            yield sorted(group, key=lambda entry: entry[along])


def _on_cost(results: Sequence[Entry]) -> list[Entry]:
    return [e for e in results if e["attack"] in ATTACKS and ATTACKS[e["attack"]].aim == ("cost", 1)]


def _weaker_than_noise(results: Sequence[Entry]) -> Findings:
    for entry in results:
        attack = ATTACKS.get(entry["attack"])
        if attack is None or attack.aim is None:
            continue
        quantity, sign = attack.aim
        for noise in _alike(results, entry, ("random", "gaussian")):
            more, less = (noise, entry) if sign > 0 else (entry, noise)
            message = f"{_label(entry, quantity)} does less than noise, {_label(noise, quantity)}"
            yield from _compared("weaker-than-noise", entry, more, less, quantity, message)


def _vanishing_gradient(results: Sequence[Entry]) -> Findings:
    for entry in results:
        share = entry.get("flat_share")
        if share is not None:
            message = f"the gradient of {_label(entry, 'cost')} vanishes in {100 * share:.0f} % of states"
            yield warning("vanishing-gradient", entry, message) if share > _FLAT_STATES else None


def _weak_search(results: Sequence[Entry]) -> Findings:
    for entry in results:
        gain = entry.get("gain")
        if gain is not None:
            message = (
                f"{_label(entry, 'cost')} raises its objective by {gain['found']:.3g}, "
                f"256 random guesses by {gain['guessed']:.3g}"
            )
            weak = gain["guessed"] - gain["found"] > _MATTERS * gain["guessed"]
            yield warning("weak-search", entry, message) if weak else None


def _hidden_gradient(results: Sequence[Entry]) -> Findings:
    for entry in results:
        quantity = "cost" if entry["attack"] == "mc" else "reward"
        for rival in _alike(results, entry, _RIVALS.get(entry["attack"], ())):
            message = f"{_label(rival, quantity)} beats {_label(entry, quantity)}"
            yield from _compared("hidden-gradient", rival, rival, entry, quantity, message)


def _poor_copy(results: Sequence[Entry], made: dict[str, Any]) -> Findings:
    of_critics = {"own": made.get("critics", {}), "independent": made.get("independent_critics", {})}
    for entry in results:
        share = of_critics.get(entry.get("critics") or "", {}).get("surrogate_share")
        if share is not None and entry["epsilon"]:
            message = (
                f"the critics that {_label(entry, 'cost')} asks were fitted with a copy of the policy whose "
                f"actions are off by {100 * share:.0f} % of the action range"
            )
            yield warning("poor-copy", entry, message) if share > _COPY_ERROR else None


def _saw_no_cost(results: Sequence[Entry], made: dict[str, Any]) -> Findings:
    of_radius = {
        (name, row["epsilon"]): row.get("cost_seen")
        for name, key in (("learned", "learned"), ("critic-free", "critic_free"))
        for row in made.get(key, [])
    }
    fitted = made.get("critics", {}).get("cost_seen")
    of_all = {"mc": fitted, "black-box": fitted, "combined": fitted}
    of_all["mc-independent"] = made.get("independent_critics", {}).get("cost_seen")
    for entry in results:
        seen = of_radius.get((entry["attack"], entry["epsilon"]), of_all.get(entry["attack"]))
        if seen is not None and entry["epsilon"]:
            message = f"no episode that {_label(entry, 'cost')} was learned from cost anything"
            yield None if seen > 0 else warning("saw-no-cost", entry, message)


def _falling_cost(results: Sequence[Entry]) -> Findings:
    # a larger ball holds the smaller one, and the clean observation
    for curve in curves(_on_cost(results), "epsilon", alone=True):
        most = results[0]
        for entry in curve:
            message = f"{_label(entry, 'cost')} costs less than {_label(most, 'cost')} at a smaller radius"
            yield from _compared("falling-cost", entry, most, entry, "cost", message)
            most = max(most, entry, key=lambda e: e["cost"]["mean"])


def _no_plateau(results: Sequence[Entry]) -> Findings:
    for key in ("steps", "restarts", "queries"):
        for *_, before, entry in curves(_on_cost(results), key):
            message = (
                f"{_label(entry, 'cost')} still gains with {entry[key]} {key} over {before[key]} "
                f"({before['cost']['mean']:.1f})"
            )
            yield from _compared("no-plateau", entry, entry, before, "cost", message)


def _falls_short(results: Sequence[Entry]) -> Findings:
    for entry in results:
        for other in _alike(results, entry, _SECOND_OPINIONS if entry["attack"] == "mc" else ()):
            if not entry["cost"]["mean"] and not other["cost"]["mean"]:
                continue
            gap = paired(entry["per_episode"], other["per_episode"], "cost")
            low, high = gap["ci95"]
            message = (
                f"{_label(other, 'cost')} falls short of {_label(entry, 'cost')} by {gap['mean']:.1f} "
                f"(95 % interval {low:.1f} to {high:.1f})"
            )
            short = other["cost"]["mean"] < _SECOND_OPINIONS[other["attack"]] * entry["cost"]["mean"]
            yield warning("falls-short", other, message) if short else None


def check(results: Sequence[Entry], made: dict[str, Any] | None = None) -> Checked:
    """Return what speaks against believing an evaluation's attacks, and how much could be compared.

    Differences are paired by episode seed, and count where their 95 % interval lies above zero and they are
    more than 5 % of the larger mean.

    Args:
        results: the entries, with their episodes.
        made: what the evaluation says of critics and adversaries that were made for it.
    """
    hardest = strongest(results)
    findings: dict[str, Callable[[], Findings]] = {
        "vanishing-gradient": lambda: _vanishing_gradient(results),
        "weak-search": lambda: _weak_search(hardest),
        "poor-copy": lambda: _poor_copy(hardest, made or {}),
        "saw-no-cost": lambda: _saw_no_cost(results, made or {}),
    }
    enough = len(results[0]["per_episode"]) >= _EPISODES
    if enough:
        findings |= {
            "weaker-than-noise": lambda: _weaker_than_noise(hardest),
            "hidden-gradient": lambda: _hidden_gradient(hardest),
            "falling-cost": lambda: _falling_cost(results),
            "no-plateau": lambda: _no_plateau(results),
            "falls-short": lambda: _falls_short(hardest),
        }
    by_check = {name: list(find()) for name, find in findings.items()}
    warnings = [found for rows in by_check.values() for found in rows if found is not None]
    if not enough:
        message = f"{len(results[0]['per_episode'])} episodes are too few to compare attacks by"
        warnings.append(warning("too-few-episodes", results[0], message))
    return Checked(warnings, {name: len(by_check.get(name, ())) for name in CHECKS})
