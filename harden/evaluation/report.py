"""One self-contained page of one or several evaluations: what each found, and side by side."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harden.config.attacks import NAMES
from harden.errors import InputError
from harden.evaluation import pictures
from harden.evaluation.checks import CHECKS, strongest
from harden.evaluation.entries import paired
from harden.evaluation.radius import radius_words
from harden.evaluation.reading import Reported
from harden.evaluation.threat import threat
from harden.evaluation.verdict import at_radius, mark, meant_radius, second_opinion, verdict
from harden.storage.files import write_text

_SETTINGS = ("epsilon", "steps", "restarts", "queries")
# the parts of an evaluation that say where it comes from
_PROVENANCE = ("seed", "episodes", "device", "code", "wall_time_s", "config", "versions")

Row = dict[str, Any]
# an image's address by its caption
Pictures = dict[str, str]


def setting(entry: Row) -> str:
    """Return how an attack was made, in a few words."""
    parts = [f"epsilon {entry['epsilon']:g}"] if entry["epsilon"] else []
    if entry["steps"]:
        starts = "corner starts" if entry.get("starts") == "corners" else "starts"
        parts.append(f"{entry['style']}, {entry['steps']} steps, {entry['restarts']} {starts}")
    if entry.get("queries"):
        parts.append(f"{entry['queries']} queries")
    if entry.get("early_rate"):
        parts.append(f"{100 * entry['early_rate']:.0f} % of the episodes ended early")
    return ", ".join(parts)


def _pictures(shown: Sequence[Reported]) -> Pictures:
    """Return reward against cost and the curves, of one policy or of several."""
    evaluations = [(reported.title, reported.evaluation) for reported in shown]
    limit = shown[0].evaluation["cost_limit"]
    drawn = {"Reward against cost, with 95 % intervals": pictures.reward_cost(evaluations, limit)}
    for along in _SETTINGS:
        for quantity in ("cost", "reward"):
            source = pictures.along(evaluations, along, quantity, limit)
            if source is not None:
                drawn[f"{quantity.capitalize()} against {along}"] = source
    return drawn


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items() if part is not None)
    return str(value)


def _provenance(evaluation: Row) -> dict[str, str]:
    facts: Row = {"task": f"{evaluation['task']} ({evaluation['env_id']})"}
    policy = evaluation["policy"]
    facts |= {f"policy {name}": value for name, value in policy.items() if name != "offline"}
    facts |= {name: evaluation.get(name) for name in _PROVENANCE}
    return {name: _text(value) for name, value in facts.items() if value not in (None, "", {})}


def _checks(evaluation: Row) -> list[Row]:
    fired = [warning["check"] for warning in evaluation.get("warnings", ())]
    return [
        {"name": name, "compares": CHECKS.get(name, ""), "made": made, "warnings": fired.count(name)}
        for name, made in evaluation.get("checks", {}).items()
    ]


def _episodes(rows: Sequence[Row]) -> tuple[list[str], dict[int, list[Row | None]]]:
    """Return what each attack is called, and its episode of each start, None where it has none."""
    names = [row["attack"] for row in rows]
    columns = [
        n if names.count(n) == 1 else f"{n} {r['epsilon']:g}" for n, r in zip(names, rows, strict=True)
    ]
    of_seed = [{episode["seed"]: episode for episode in row.get("per_episode", ())} for row in rows]
    return columns, {
        seed: [by.get(seed) for by in of_seed] for seed in dict.fromkeys(s for by in of_seed for s in by)
    }


def _inside(kind: str, content: bytes) -> str:
    """Return a file's address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _section(reported: Reported) -> Row:
    """Return what the page says of one policy."""
    evaluation = reported.evaluation
    hardest, radius = strongest(evaluation["results"]), meant_radius(evaluation)
    # where nobody tried the radius to withstand, no other is set aside
    tried = any(at_radius(entry, radius) for entry in hardest)
    rows, further = list[Row](), list[Row]()
    for entry in evaluation["results"]:
        point = entry not in hardest or (tried and entry["epsilon"] > 0 and not at_radius(entry, radius))
        row = {"over_natural": {}, "worst_episode": {}, "violation_ci95": None} | entry
        row |= {"setting": setting(entry), "mark": mark(entry, evaluation)}
        (further if point else rows).append(row)
    scene = evaluation.get("trajectories") or {"episodes": []}
    columns, episodes = _episodes(rows)
    return {
        "title": reported.title,
        "evaluation": evaluation,
        "verdict": verdict(evaluation),
        "warnings": evaluation.get("warnings", ()),
        "checks": _checks(evaluation),
        "rows": rows,
        "further": further,
        "columns": columns,
        "episodes": episodes,
        "film": reported.film and _inside("image/gif", reported.film),
        "json": _inside("application/json", json.dumps(evaluation, indent=2).encode()),
        "radii": evaluation.get("breaking_radius", ()),
        "pictures": _pictures([reported]),
        "paths": {
            f"Start {e['seed']}, {e['attack']} at epsilon {e['epsilon']:g}": pictures.path(scene, e)
            for e in scene["episodes"]
        },
        "threat": threat(evaluation),
        "reference": evaluation.get("reference"),
        "world": evaluation.get("world_model"),
        "opinion": second_opinion(evaluation),
        "provenance": _provenance(evaluation),
    }


def _comparison(shown: Sequence[Reported]) -> Row:
    """Return the table that puts policies side by side, with the difference of two on the same starts."""
    by_key = [{(e["attack"], setting(e)): e for e in reported.evaluation["results"]} for reported in shown]
    rows = []
    for key in dict.fromkeys(key for entries in by_key for key in entries):
        entries = [by_setting.get(key) for by_setting in by_key]
        cells = [
            entry and {**entry, "mark": mark(entry, reported.evaluation)}
            for entry, reported in zip(entries, shown, strict=True)
        ]
        episodes = [entry.get("per_episode", []) if entry else [] for entry in entries]
        starts = [{episode["seed"] for episode in of_policy} for of_policy in episodes]
        pairs = len(shown) == 2 and bool(starts[0]) and starts[0] == starts[1]
        difference = paired(episodes[1], episodes[0], "cost") if pairs else None
        rows.append({"attack": key[0], "setting": key[1], "cells": cells, "difference": difference})
    radii = {reported.title: meant_radius(reported.evaluation) for reported in shown}
    breaking = [{r["attack"]: r for r in of.evaluation.get("breaking_radius", ())} for of in shown]
    return {
        "rows": rows,
        "breaking": {
            name: [by_attack.get(name) for by_attack in breaking]
            for name in dict.fromkeys(name for by_attack in breaking for name in by_attack)
        },
        "paired": any(row["difference"] for row in rows),
        "radii": radii if len(set(radii.values())) > 1 else {},
        "pictures": _pictures(shown),
    }


def _require_comparable(shown: Sequence[Reported]) -> None:
    remedy = "name two or more evaluations of one task under one cost limit"
    tasks = list(dict.fromkeys(reported.evaluation["task"] for reported in shown))
    if len(shown) < 2:
        raise InputError(f"{len(shown)} evaluation given, and a comparison takes two", remedy)
    if len(tasks) > 1:
        raise InputError(f"evaluations of {' and '.join(tasks)} can't be compared", remedy)
    limits = {reported.title: reported.evaluation["cost_limit"] for reported in shown}
    if len(set(limits.values())) > 1:
        raise InputError(f"the cost limits differ: {_text(limits)}", remedy)


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # the page's text comes from files that others wrote: it is escaped
    loader = PackageLoader("harden.evaluation", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["fixed"] = lambda value, digits: f"{value:.{digits}f}"
    environment.filters["radius"] = radius_words
    environment.filters["plain"] = lambda value: f"{value:.3g}"
    return environment.get_template("report.html")


def write_report(
    out: Path,
    shown: Sequence[Reported],
    compare: bool = False,
    signed: tuple[str, dict[str, str]] | None = None,
) -> None:
    """Write the page.

    Args:
        out: the HTML file.
        shown: evaluations, at least one.
        compare: put the policies side by side first.
        signed: who signs it off, and the digests of the files that this is for.

    Raises:
        InputError: a comparison of fewer than two policies, or of policies of different tasks or cost limits.
    """
    if compare:
        _require_comparable(shown)
    runs = [(reported.title, reported.curve) for reported in shown if reported.curve]
    limits = {reported.evaluation["cost_limit"] for reported in shown}
    limit = limits.pop() if len(limits) == 1 else None
    learning = {
        f"{quantity.capitalize()} while training": pictures.learning(runs, quantity, limit)
        for quantity in (("reward", "cost") if runs else ())
    }
    named = {entry["attack"] for reported in shown for entry in reported.evaluation["results"]}
    page = _template().render(
        title=f"Under attack: {', '.join(dict.fromkeys(r.evaluation['task'] for r in shown))}",
        sections=[_section(reported) for reported in shown],
        comparison=_comparison(shown) if compare else None,
        learning=learning,
        signed=signed,
        today=datetime.date.today().isoformat(),
        # filled while the page is written
        contents=[],
        glossary={name: meaning for name, meaning in NAMES.items() if name in named},
    )
    write_text(out, page)
