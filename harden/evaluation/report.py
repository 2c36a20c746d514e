"""One self-contained page of one or several evaluations: what each found, and side by side."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harden.errors import InputError
from harden.evaluation import pictures
from harden.evaluation.checks import strongest
from harden.evaluation.entries import NAMES
from harden.evaluation.reading import Reported, seeds_of_one
from harden.evaluation.reference import rows_of
from harden.evaluation.soundness import soundness
from harden.evaluation.statistics import paired, pooled, violation_rate
from harden.evaluation.threat import threat
from harden.evaluation.verdict import mark, meant_radius, verdict
from harden.storage.files import write_text

_PICTURED = (
    ("epsilon", "cost", "Cost against the attacker's reach."),
    ("epsilon", "reward", "Reward against the attacker's reach."),
    ("steps", "cost", "Cost against the attacker's effort: steps of the search."),
    ("restarts", "cost", "Cost against the attacker's effort: starts of the search."),
    ("queries", "cost", "Cost against the attacker's effort: values asked for."),
    ("steps", "reward", "Reward against the attacker's effort: steps of the search."),
    ("restarts", "reward", "Reward against the attacker's effort: starts of the search."),
    ("queries", "reward", "Reward against the attacker's effort: values asked for."),
)

_STYLES = {
    "pgd": "how an attack climbs: steps along the gradient's signs from several starts, the best point kept",
    "paper": "how an attack climbs: as the paper's authors do, Adam from where the step before ended",
    "evolution": "how an attack searches without gradients: mutations of the best perturbation so far",
}


def how(entry: dict[str, Any]) -> str:
    """Return how an attack was made, in a few words."""
    said = [f"epsilon {entry['epsilon']:g}"] if entry["epsilon"] else []
    far = "corner " if entry.get("starts") == "corners" else ""
    if entry["steps"]:
        steps, starts = (f"{entry[key]} {{}}{'s' * (entry[key] != 1)}" for key in ("steps", "restarts"))
        said.append(f"{entry['style']}, {steps.format('step')}, {starts.format(far + 'start')}")
    if entry.get("queries"):
        said.append(f"{entry['queries']} queries")
    return ", ".join(said)


def _pictures(shown: Sequence[Reported]) -> list[dict[str, str]]:
    """Return reward against cost and the curves, of one policy or of several."""
    evaluations = [(one.title, one.evaluation) for one in shown]
    limit = shown[0].evaluation["cost_limit"]
    caption = "Reward against cost; left of the dashed line a mean is within the limit. Bars: 95 % intervals."
    found = [(caption, pictures.reward_cost(evaluations, limit))]
    for setting, quantity, caption in _PICTURED:
        source = pictures.along(evaluations, setting, quantity, limit)
        if source is not None:
            found.append((caption, source))
    return [{"alt": caption, "caption": caption, "src": source} for caption, source in found]


def _paths(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    scene, shown = evaluation.get("trajectories") or {}, []
    for one in scene.get("episodes", ()):
        caption = f"Start {one['seed']}, under {one['attack']} at epsilon {one['epsilon']:g}"
        shown.append({"alt": caption, "caption": caption, "src": pictures.path(scene, one)})
    return shown


def _provenance(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    policy = evaluation["policy"]
    said = [("task", f"{evaluation['task']} ({evaluation['env_id']})"), ("policy", policy["path"])]
    plain = [name for name in policy if name not in ("path", "offline") and policy[name]]
    said += [(name.replace("_", " "), str(policy[name])) for name in plain]
    if policy.get("offline"):
        said.append(("trained offline", "these are its first simulated episodes"))
    if "independent_critics" in evaluation:
        about = evaluation["independent_critics"]
        said.append(("independent critics", ", ".join(f"{key} {value}" for key, value in about.items())))
    for one in evaluation.get("learned", []):
        what = f"epsilon {one['epsilon']:g}: {one['episodes']} episodes, digest {one['digest']}"
        said.append(("learned adversary", what))
    for one in evaluation.get("critic_free", []):
        said.append(("critic-free adversary", f"epsilon {one['epsilon']:g}: {one['episodes']} episodes"))
    said.append(("seed and episodes", f"{evaluation['seed']}, {evaluation['episodes']}"))
    # files from before these were recorded have none
    settings = (evaluation.get("config") or {}).items()
    in_words = ", ".join(f"{name} {'not set' if value is None else value}" for name, value in settings)
    for name, value in (
        ("evaluation settings", in_words),
        ("device", evaluation.get("device")),
        ("code revision", evaluation.get("code")),
    ):
        if value:
            said.append((name, str(value)))
    if "wall_time_s" in evaluation:
        said.append(("time taken", f"{evaluation['wall_time_s']:g} s"))
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.get("versions", {}).items())
    return [*said, ("versions", versions)] if versions else said


def _section(one: Reported) -> dict[str, Any]:
    """Return what the page says of one policy, its account alone where it was never simulated."""
    evaluation = one.evaluation
    if "results" not in evaluation:
        return {"title": one.title, "offline": evaluation}
    hardest, radius = strongest(evaluation["results"]), meant_radius(evaluation)
    # where nobody tried the radius to withstand, no other is set aside
    at = {entry["epsilon"] for entry in hardest if radius and abs(entry["epsilon"] - radius) < 1e-12}
    rows = [
        {
            **{key: entry[key] for key in ("attack", "reward", "cost", "violation_rate")},
            "how": how(entry),
            "mark": mark(entry, evaluation),
            "over": entry.get("over_natural", {}).get("cost"),
            "worst": entry.get("worst_episode", {}).get("cost"),
            "share": entry.get("violation_ci95"),
            "further": entry not in hardest or bool(at and entry["epsilon"] not in {0.0, *at}),
        }
        for entry in evaluation["results"]
    ]
    return {
        "title": one.title,
        "evaluation": evaluation,
        "verdict": verdict(evaluation),
        "soundness": soundness(evaluation),
        "rows": [row for row in rows if not row["further"]],
        "further": [row for row in rows if row["further"]],
        "pictures": _pictures([one]),
        "paths": _paths(evaluation),
        "threat": threat(evaluation),
        "idle": rows_of(evaluation),
        "provenance": _provenance(evaluation),
    }


def _same(entries: Sequence[dict[str, Any]], key: tuple[Any, ...]) -> dict[str, Any] | None:
    return next((entry for entry in entries if (entry["attack"], how(entry)) == key), None)


def _comparison(shown: Sequence[Reported]) -> dict[str, Any]:
    """Return the table that puts policies side by side, with seeds of one configuration as one as well.

    Source: intervals over training seeds first, then over episodes (`pooled`).
    """
    results = [one.evaluation["results"] for one in shown]
    keys = list(dict.fromkeys((entry["attack"], how(entry)) for entries in results for entry in entries))
    starts = [{e["seed"] for e in entries[0].get("per_episode", [])} for entries in results]
    with_pairs = len(shown) == 2 and bool(starts[0]) and starts[0] == starts[1]
    several = seeds_of_one(shown)
    rows = []
    for key in keys:
        entries = [_same(one, key) for one in results]
        cells = [
            e
            and {
                **{name: e[name] for name in ("cost", "reward", "violation_rate")},
                "mark": mark(e, one.evaluation),
            }
            for e, one in zip(entries, shown, strict=True)
        ]
        both = [e for e in entries if e and e.get("per_episode")]
        rows.append(
            {
                "attack": key[0],
                "how": key[1],
                "cells": cells,
                "pools": [
                    _pool([entries[i] for i in places], [shown[i] for i in places]) for places in several
                ],
                "difference": paired(both[1]["per_episode"], both[0]["per_episode"], "cost")
                if with_pairs and len(both) == 2
                else None,
            }
        )
    titles = [
        f"all seeds of {shown[places[0]].evaluation['policy'].get('variant')} "
        f"({', '.join(shown[place].title for place in places)})"
        for places in several
    ]
    about = {"paired": with_pairs, "pools": titles, "radii": _radii(shown)}
    return {"rows": rows, **about, "pictures": _pictures(shown)}


def _radii(shown: Sequence[Reported]) -> str:
    """Return which radius each policy is meant to withstand, nothing where it is the same."""
    radii = [meant_radius(one.evaluation) for one in shown]
    if len(set(radii)) == 1:
        return ""
    said = ("not said" if radius is None else f"{radius:g}" for radius in radii)
    return ", ".join(f"{one.title} {radius}" for one, radius in zip(shown, said, strict=True))


def _pool(entries: Sequence[dict[str, Any] | None], shown: Sequence[Reported]) -> dict[str, Any] | None:
    """Return an attack's numbers over several policies, each of which counts alike."""
    whole = [entry["per_episode"] for entry in entries if entry and entry.get("per_episode")]
    if len(whole) < len(entries):
        return None
    values = {
        name: [np.array([episode[name] for episode in episodes]) for episodes in whole]
        for name in ("cost", "reward")
    }
    limit = shown[0].evaluation["cost_limit"]
    rate = float(np.mean([violation_rate(costs, limit) for costs in values["cost"]]))
    found = {name: pooled(groups) for name, groups in values.items()} | {"violation_rate": rate}
    marks = {mark(found, one.evaluation) for one in shown}
    return found | {"mark": next(name for name in ("over", "unsure", "within") if name in marks)}


def _template() -> Any:
    # the page's text comes from files that others wrote: it is escaped
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("harden.evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["fixed"] = lambda value, digits: f"{value:.{digits}f}"
    environment.filters["plain"] = lambda value: f"{value:g}"
    environment.filters["plain3"] = lambda value: f"{value:.3g}"
    return environment.get_template("report.html")


def write_report(
    out: Path,
    shown: Sequence[Reported],
    curves: Sequence[tuple[str, dict[str, list[float]]]] = (),
    compare: bool = False,
    signed: tuple[str, dict[str, str]] | None = None,
) -> None:
    """Write the page.

    Args:
        out: the HTML file.
        shown: evaluations, at least one.
        curves: a label and a learning curve, each, beside those that the evaluations bring.
        compare: put the policies side by side first.
        signed: who signs it off, and the digests of the files that this is for.

    Raises:
        InputError: a comparison of fewer than two policies, of policies of different tasks or cost limits,
            or of one that was never simulated.
    """
    tasks = list(dict.fromkeys(one.evaluation["task"] for one in shown))
    if compare and (len(shown) < 2 or len(tasks) > 1):
        said = f"{len(shown)} given" if len(shown) < 2 else f"they are of {' and '.join(tasks)}"
        raise InputError(f"nothing to compare: {said}", "name two or more evaluations of one task")
    simulated = [one for one in shown if "results" in one.evaluation]
    if compare and len(simulated) < len(shown):
        raise InputError(
            "a policy that was never simulated can't be compared", "evaluate it first: harden evaluate"
        )
    limits = [one.evaluation["cost_limit"] for one in shown]
    if compare and len(set(limits)) > 1:
        said = ", ".join(f"{one.title} {limit:g}" for one, limit in zip(shown, limits, strict=True))
        raise InputError(f"the cost limits differ: {said}", "evaluate all under one, then compare")
    runs = [(one.title, one.curve) for one in shown if one.curve] + list(curves)
    limit = limits[0] if len(set(limits)) == 1 else None
    learning = [
        {"alt": f"{q} while training", "caption": q, "src": pictures.learning(runs, q, limit)}
        for q in (("reward", "cost") if runs else ())
    ]
    entries = [entry for one in simulated for entry in one.evaluation["results"]]
    named = {entry[key] for entry in entries for key in ("attack", "style")}
    page = _template().render(
        title=f"Under attack: {', '.join(tasks)}",
        sections=[_section(one) for one in shown],
        comparison=_comparison(shown) if compare else None,
        learning=learning,
        signed=signed,
        today=datetime.date.today().isoformat(),
        glossary=[(name, meaning) for name, meaning in (NAMES | _STYLES).items() if name in named],
    )
    write_text(out, page)
