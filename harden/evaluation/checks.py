"""Checks of an evaluation by itself: is there a sign that its attacks are weaker than they could be?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from harden.attacks import ATTACKS
from harden.evaluation.entries import paired

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
_EFFORT = ("steps", "restarts", "queries")
_RIVALS = {"mc": ("black-box", "critic-free", "mc-independent"), "mr": ("mr-independent",)}
# the share of mc's cost that a second opinion has to reach
_SECOND_OPINIONS = {"black-box": 0.8, "learned": 1.0}

Entry = dict[str, Any]
# a comparison that was made: the check, the entry that it is of, whether it warns, and with which message
Finding = tuple[str, Entry, bool, str]


class Checked(NamedTuple):
    """What the checks found.

    Args:
        warnings: {"check", "attack", "epsilon", "steps", "restarts", "message"} each.
        made: how many comparisons each check could make; a check that made none proves nothing.
    """

    warnings: list[dict[str, Any]]
    made: dict[str, int]


def strongest(results: Sequence[Entry]) -> list[Entry]:
    """Return the entries without those of which the same attack was tried harder: the points of a curve."""

    def outdone(entry: Entry) -> bool:
        alike = ("attack", "norm", "epsilon", "style")
        same = [other for other in results if all(other.get(key) == entry.get(key) for key in alike)]
        more = [[(other.get(key) or 0) - (entry.get(key) or 0) for key in _EFFORT] for other in same]
        return any(min(differences) >= 0 and max(differences) > 0 for differences in more)

    return [entry for entry in results if not outdone(entry)]


def curves(results: Sequence[Entry], along: str, alone: bool = False) -> Iterator[list[Entry]]:
    """Yield the entries of each attack that differ in one setting only, in its order.

    Args:
        along: epsilon, steps, restarts or queries.
        alone: also those that differ from no other, which are no curve.
    """
    fixed = [key for key in ("attack", "norm", "epsilon", "style", *_EFFORT) if key != along]
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in results:
        if entry["attack"] in ATTACKS and entry.get(along) is not None:
            groups.setdefault(tuple(entry.get(key) for key in fixed), []).append(entry)
    for group in groups.values():
        if alone or len(group) > 1:
            yield sorted(group, key=lambda entry: entry[along])


def _alike(results: Sequence[Entry], entry: Entry, names: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of some attacks of equal norm and radius, and equal effort where both have one."""
    wanted = set(names)
    for other in results:
        same = all(other[key] == entry[key] for key in ("norm", "epsilon"))
        effort = all(other[key] == entry[key] for key in ("style", "steps", "restarts"))
        if other["attack"] in wanted and same and (effort or not (entry["steps"] and other["steps"])):
            yield other


def _label(entry: Entry, quantity: str = "cost") -> str:
    parts = [f"epsilon {entry['epsilon']:g}"]
    if entry["steps"]:
        parts.append(f"{entry['steps']} x {entry['restarts']} steps")
    if entry.get("queries"):
        parts.append(f"{entry['queries']} queries")
    return f"{entry['attack']} ({', '.join(parts)}, {quantity} {entry[quantity]['mean']:.1f})"


def _searches(results: Sequence[Entry], made: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is judged state by state, or by what an attack was learned from."""
    seen = {
        (name, row["epsilon"]): row.get("cost_seen")
        for name, key in (("learned", "learned"), ("critic-free", "critic_free"))
        for row in made.get(key, ())
    }
    fitted = {"own": made.get("critics", {}), "independent": made.get("independent_critics", {})}
    for entry in results:
        share = entry.get("flat_share")
        if share is not None:
            message = f"the gradient of {_label(entry)} vanishes in {100 * share:.0f} % of states"
            yield "vanishing-gradient", entry, share > _FLAT_STATES, message
        if not entry["epsilon"] or entry["attack"] not in ATTACKS:
            continue
        of_critics = fitted.get(ATTACKS[entry["attack"]].critics or "", {})
        cost = seen.get((entry["attack"], entry["epsilon"]), of_critics.get("cost_seen"))
        if cost is not None and ATTACKS[entry["attack"]].aim == ("cost", 1):
            message = f"no episode that {_label(entry)} was learned from cost anything"
            yield "saw-no-cost", entry, cost == 0, message
        copied = of_critics.get("surrogate_share")
        if copied is not None:
            message = (
                f"the critics that {_label(entry)} asks were fitted with a copy of the policy whose actions "
                f"are off by {100 * copied:.0f} % of the action range"
            )
            yield "poor-copy", entry, copied > _COPY_ERROR, message
    for entry in strongest(results):
        gain = entry.get("gain")
        if gain is not None:
            message = (
                f"{_label(entry)} raises its objective by {gain['found']:.3g}, "
                f"256 random guesses by {gain['guessed']:.3g}"
            )
            weak = gain["guessed"] - gain["found"] > _MATTERS * gain["guessed"]
            yield "weak-search", entry, weak, message


def _exceeds(check: str, entry: Entry, more: Entry, less: Entry, quantity: str = "cost") -> Iterator[Finding]:
    """Yield whether `more` is above `less`, beyond chance and by enough to matter.

    No comparison is made where neither costs anything, which tells no attack from another.
    """
    scale = max(abs(more[quantity]["mean"]), abs(less[quantity]["mean"]))
    if quantity == "cost" and not scale:
        return
    difference = paired(more["per_episode"], less["per_episode"], quantity)
    above = difference["ci95"][0] > 0 and difference["mean"] > _MATTERS * scale
    yield check, entry, above, f"{_label(more, quantity)} exceeds {_label(less, quantity)}"


def _comparisons(results: Sequence[Entry]) -> Iterator[Finding]:
    """Yield what is judged by the same episodes under other attacks, radii and efforts."""
    hardest = strongest(results)
    for entry in hardest:
        name, attack = entry["attack"], ATTACKS.get(entry["attack"])
        if attack is None or attack.aim is None:
            continue
        quantity, sign = attack.aim
        for noise in _alike(hardest, entry, ("random", "gaussian")):
            more, less = (noise, entry) if sign > 0 else (entry, noise)
            yield from _exceeds("weaker-than-noise", entry, more, less, quantity)
        for rival in _alike(hardest, entry, _RIVALS.get(name, ())):
            yield from _exceeds("hidden-gradient", rival, rival, entry, quantity)
        for other in _alike(hardest, entry, _SECOND_OPINIONS if name == "mc" else ()):
            mean, other_mean = entry["cost"]["mean"], other["cost"]["mean"]
            if mean or other_mean:
                low, high = paired(entry["per_episode"], other["per_episode"], "cost")["ci95"]
                text = (
                    f"{_label(other)} falls short of {_label(entry)}, 95 % interval {low:.1f} to {high:.1f}"
                )
                yield "falls-short", other, other_mean < _SECOND_OPINIONS[other["attack"]] * mean, text
    on_cost = [e for e in results if e["attack"] in ATTACKS and ATTACKS[e["attack"]].aim == ("cost", 1)]
    for curve in curves(on_cost, "epsilon", alone=True):
        # a larger ball holds the smaller one, and the clean observation
        most = results[0]
        for entry in curve:
            yield from _exceeds("falling-cost", entry, most, entry)
            most = max(most, entry, key=lambda e: e["cost"]["mean"])
    for key in _EFFORT:
        for *_, before, entry in curves(on_cost, key):
            yield from _exceeds("no-plateau", entry, entry, before)


def check(results: Sequence[Entry], made: dict[str, Any] | None = None) -> Checked:
    """Return what speaks against believing an evaluation's attacks, and how much could be compared.

    Differences are paired by episode seed, and count where their 95 % interval lies above zero and they are
    more than 5 % of the larger mean.

    Args:
        results: the entries, with their episodes.
        made: what the evaluation says of critics and adversaries that were made for it.
    """
    findings, episodes = list(_searches(results, made or {})), len(results[0]["per_episode"])
    if episodes >= _EPISODES:
        findings += _comparisons(results)
    else:
        message = f"{episodes} episodes are too few to compare attacks by"
        findings.append(("too-few-episodes", results[0], True, message))
    counted = [name for name, *_ in findings]
    keys = ("attack", "epsilon", "steps", "restarts")
    warnings = [
        {"check": name, **{key: entry.get(key) for key in keys}, "message": message}
        for name, entry, warns, message in findings
        if warns
    ]
    return Checked(warnings, {name: counted.count(name) for name in CHECKS})
