"""Checks of an evaluation by itself: is there a sign that its attacks are weaker than they could be?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from harden.attacks import ATTACKS
from harden.evaluation.statistics import paired

# below, an interval from resampled episodes means nothing
_EPISODES = 5
# differences smaller than this share of the larger mean are not worth a warning
_MATTERS = 0.05
_FLAT_STATES = 0.1

Entry = dict[str, Any]
Warning = dict[str, Any]
# one for each comparison that could be made, None where it found nothing
Findings = Iterator[Warning | None]


class Checked(NamedTuple):
    """What the checks say.

    Args:
        warnings: {"check", "attack", "epsilon", "steps", "restarts", "message"} each.
        made: how many comparisons each check could make; one that made none proves nothing.
    """

    warnings: list[Warning]
    made: dict[str, int]


def _exceeds(more: Entry, less: Entry, quantity: str) -> bool:
    """Whether one attack's mean is above another's, beyond chance and by enough to matter."""
    difference = paired(more["per_episode"], less["per_episode"], quantity)
    scale = max(abs(more[quantity]["mean"]), abs(less[quantity]["mean"]))
    return difference["ci95"][0] > 0 and difference["mean"] > _MATTERS * scale


def _both_free(one: Entry, other: Entry) -> bool:
    """Whether neither cost anything, which tells no attack from another."""
    return not one["cost"]["mean"] and not other["cost"]["mean"]


def _judged(more: Entry, less: Entry, quantity: str, warning: Warning) -> Findings:
    """Yield what a comparison says, nothing at all where it tells nothing."""
    if quantity == "cost" and _both_free(more, less):
        return
    yield warning if _exceeds(more, less, quantity) else None


def _said(one: Entry, quantity: str) -> str:
    return f"{one['attack']} ({quantity} {one[quantity]['mean']:.1f})"


def _warning(check: str, one: Entry, message: str) -> Warning:
    point = {key: one.get(key) for key in ("attack", "epsilon", "steps", "restarts")}
    return {"check": check, **point, "message": message}


def _alike(results: Sequence[Entry], one: Entry, names: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of some attacks that share norm and radius with one, and effort where it has any."""
    wanted = set(names)
    for other in results:
        same = all(other[key] == one[key] for key in ("norm", "epsilon"))
        effort = all(other[key] == one[key] for key in ("style", "steps", "restarts"))
        if other["attack"] in wanted and same and (effort or not (one["steps"] and other["steps"])):
            yield other


def strongest(results: Sequence[Entry]) -> list[Entry]:
    """Return the entries without those of which the same attack was tried harder: the points of a curve."""

    def effort(one: Entry) -> list[int]:
        return [one.get(name) or 0 for name in ("steps", "restarts", "queries")]

    def outdone(one: Entry) -> bool:
        for other in results:
            same = all(one.get(name) == other.get(name) for name in ("attack", "norm", "epsilon", "style"))
            more = [theirs - own for theirs, own in zip(effort(other), effort(one), strict=True)]
            if same and min(more) >= 0 and max(more) > 0:
                return True
        return False

    return [one for one in results if not outdone(one)]


def weaker_than_noise(results: Sequence[Entry]) -> Findings:
    """Warn of an attack that does less of what it is for than random noise does."""
    for one in results:
        attack = ATTACKS.get(one["attack"])
        if attack is None or attack.aim is None:
            continue
        quantity, sign = attack.aim
        for noise in _alike(results, one, ("random", "gaussian")):
            more, less = (noise, one) if sign > 0 else (one, noise)
            message = f"{_said(one, quantity)} does less than noise, {_said(noise, quantity)}"
            found = _warning("weaker-than-noise", one, f"{message}: its critics mislead it, or are flat")
            yield from _judged(more, less, quantity, found)


def vanishing_gradient(results: Sequence[Entry]) -> Findings:
    """Warn of an attack whose gradient is nothing in many states."""
    for one in results:
        share = one.get("flat_share")
        if share is None:
            continue
        message = f"the gradient that {one['attack']} climbs vanishes in {100 * share:.0f} % of states"
        found = _warning("vanishing-gradient", one, f"{message}: a low cost under it proves nothing there")
        yield found if share > _FLAT_STATES else None


def weak_search(results: Sequence[Entry]) -> Findings:
    """Warn of a search that blind guesses outdo, state by state and by what it climbs itself."""
    for one in results:
        gain = one.get("gain")
        if gain is None:
            continue
        message = (
            f"{one['attack']} raises what it climbs by {gain['found']:.3g}, 256 blind guesses by "
            f"{gain['guessed']:.3g}: it searches badly"
        )
        found = _warning("weak-search", one, message)
        yield found if gain["guessed"] - gain["found"] > _MATTERS * gain["guessed"] else None


def hidden_gradient(results: Sequence[Entry]) -> Findings:
    """Warn where an attack that asks less of the policy's own critics beats the one that climbs them."""
    rivals = {"mc": ("black-box", "critic-free", "mc-independent"), "mr": ("mr-independent",)}
    for one in results:
        for other in _alike(results, one, rivals.get(one["attack"], ())):
            quantity = "cost" if one["attack"] == "mc" else "reward"
            message = f"{_said(other, quantity)} beats {_said(one, quantity)}"
            found = _warning("hidden-gradient", other, f"{message}: the policy's own critics hide the way")
            yield from _judged(other, one, quantity, found)


def saw_no_cost(results: Sequence[Entry], about: dict[str, Any]) -> Findings:
    """Warn of an attack on cost that was learned from episodes none of which cost anything."""
    of_radius = {
        (name, one["epsilon"]): one.get("cost_seen")
        for name, key in (("learned", "learned"), ("critic-free", "critic_free"))
        for one in about.get(key, [])
    }
    of_all = {"mc-independent": about.get("independent_critics", {}).get("cost_seen")}
    fitted = about.get("critics", {}).get("cost_seen")
    of_all |= {"mc": fitted, "black-box": fitted, "combined": fitted}
    for one in results:
        seen = of_radius.get((one["attack"], one["epsilon"]), of_all.get(one["attack"]))
        if seen is None or not one["epsilon"]:
            continue
        message = f"none of the episodes that {one['attack']} was learned from cost anything"
        found = _warning("saw-no-cost", one, f"{message}: it does not know what to look for")
        yield None if seen > 0 else found


def curves(results: Sequence[Entry], along: str, alone: bool = False) -> Iterator[list[Entry]]:
    """Yield the entries of each attack that differ in one setting only, in its order.

    Args:
        along: epsilon, steps, restarts or queries.
        alone: also those that differ from no other, which are no curve.
    """
    fixed = [k for k in ("attack", "norm", "epsilon", "style", "steps", "restarts", "queries") if k != along]
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for one in results:
        if one["attack"] in ATTACKS and one.get(along) is not None:
            groups.setdefault(tuple(one.get(key) for key in fixed), []).append(one)
    for group in groups.values():
        if alone or len(group) > 1:
            yield sorted(group, key=lambda one: one[along])


def _on_cost(results: Sequence[Entry]) -> list[Entry]:
    return [one for one in results if one["attack"] in ATTACKS and ATTACKS[one["attack"]].aim == ("cost", 1)]


def falling_cost(results: Sequence[Entry]) -> Findings:
    """Warn of an attack on cost that does less than with a smaller radius, which the larger one holds."""
    natural, on_cost = results[0], _on_cost(results)
    for curve in curves(on_cost, "epsilon", alone=True):
        most = natural
        for one in curve:
            less = f"costs less than at radius {most['epsilon']:g} ({most['cost']['mean']:.1f})"
            message = f"{_said(one, 'cost')} {less}: it looks one action ahead, or searches badly"
            yield from _judged(most, one, "cost", _warning("falling-cost", one, message))
            most = max(most, one, key=lambda entry: entry["cost"]["mean"])


def no_plateau(results: Sequence[Entry]) -> Findings:
    """Warn of an attack on cost that still gains from its last increase of steps or restarts."""
    for key in ("steps", "restarts", "queries"):
        for curve in curves(_on_cost(results), key):
            one, before = curve[-1], curve[-2]
            over = f"over {before[key]} ({before['cost']['mean']:.1f})"
            message = f"{_said(one, 'cost')} still gains with {one[key]} {key} {over}: more would find more"
            found = _warning("no-plateau", one, message)
            yield from _judged(one, before, "cost", found)


def falls_short(results: Sequence[Entry], about: dict[str, Any]) -> Findings:
    """Warn of black-box below four fifths of mc's cost and of learned below mc's, and say why.

    Nothing is hidden there: it says how far the other search can be believed elsewhere.
    """
    for one in results:
        for other in _alike(results, one, ("black-box", "learned") if one["attack"] == "mc" else ()):
            if _both_free(one, other):
                continue
            share = 0.8 if other["attack"] == "black-box" else 1.0
            if other["cost"]["mean"] >= share * one["cost"]["mean"]:
                yield None
                continue
            message = f"{_said(other, 'cost')} falls short of {_said(one, 'cost')}: {_why(one, other, about)}"
            yield _warning("falls-short", other, message)


def _why(one: Entry, other: Entry, about: dict[str, Any]) -> str:
    """Say by how much an attack is behind another, whether that is chance, and how its training ended."""
    why = f"with {other.get('queries')} queries a state it found less; more may find more"
    if other["attack"] == "learned":
        at = other["epsilon"]
        rounds: dict[str, Any] = next((r for r in about.get("learned", []) if r["epsilon"] == at), {})
        costs = ", ".join(f"{cost:.0f}" for cost in rounds.get("costs", []))
        why = f"its training reached {costs} from round to round and may not be at its end"
    gap = paired(one["per_episode"], other["per_episode"], "cost")
    low, high = gap["ci95"]
    measured = f"{gap['mean']:.1f} less, start by start (95 % interval {low:.1f} to {high:.1f})"
    if low <= 0:
        measured += f", no more than chance in {len(one['per_episode'])} episodes"
    return f"{measured}; {why}"


def _where(warning: Warning, results: Sequence[Entry]) -> str:
    """Say which point of a curve a warning is of: of several points one sentence may hold."""
    said = []
    if warning["epsilon"] and len({one["epsilon"] for one in results} - {0}) > 1:
        said.append(f"at radius {warning['epsilon']:g}")
    efforts = {(one["steps"], one["restarts"]) for one in results if one["attack"] == warning["attack"]}
    if warning["steps"] and len(efforts) > 1:
        said.append(f"with {warning['steps']} x {warning['restarts']} steps")
    return f"{', '.join(said)}: " if said else ""


def check(results: Sequence[Entry], about: dict[str, Any] | None = None) -> Checked:
    """Return what speaks against believing an evaluation's attacks, and what could be looked at.

    Differences are paired by episode seed, and count where their 95 % interval lies above zero and they are
    more than 5 % of the larger mean.

    Args:
        results: the entries, with their episodes.
        about: what the evaluation says of critics and adversaries that were made for it.
    """
    about, episodes = about or {}, len(results[0]["per_episode"])
    hardest = strongest(results)
    by_attack: dict[str, Callable[[], Findings]] = {
        "vanishing-gradient": lambda: vanishing_gradient(results),
        "weak-search": lambda: weak_search(hardest),
        "saw-no-cost": lambda: saw_no_cost(results, about),
    }
    by_difference: dict[str, Callable[[], Findings]] = {
        "weaker-than-noise": lambda: weaker_than_noise(hardest),
        "hidden-gradient": lambda: hidden_gradient(hardest),
        "falling-cost": lambda: falling_cost(results),
        "no-plateau": lambda: no_plateau(results),
        "falls-short": lambda: falls_short(hardest, about),
    }
    enough = episodes >= _EPISODES
    findings = {name: list(one()) for name, one in (by_attack | (by_difference if enough else {})).items()}
    warnings = [found for made in findings.values() for found in made if found is not None]
    if not enough:
        message = f"{episodes} episodes are too few to compare attacks by: those checks were left out"
        warnings.append(_warning("too-few-episodes", results[0], message))
    warnings = [one | {"message": _where(one, results) + one["message"]} for one in warnings]
    made = {name: len(findings.get(name, ())) for name in (*by_attack, *by_difference)}
    return Checked(warnings, made)
