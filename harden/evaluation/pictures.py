"""The pictures of a report, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from harden.evaluation.checks import curves
from harden.evaluation.entries import NATURAL

Evaluations = Sequence[tuple[str, dict[str, Any]]]

_MARKERS = "osD^v<>PX*ph"
_LIMIT = {"color": "#cf222e", "linestyle": "--", "linewidth": 1.2}
# small enough that text stays readable on a phone, where a picture is 9 cm wide
_SIZE = (4.6, 3.5)


def _draw(paint: Callable[[Any], None], size: tuple[float, float] = _SIZE) -> str:
    """Return a figure with one axes as a data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 10,
        "svg.hashsalt": "harden",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25)
        paint(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _legend(axes: Any, columns: int = 3) -> None:
    axes.legend(fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def reward_cost(evaluations: Evaluations, cost_limit: float, epsilon: float | None) -> str:
    """Return reward against cost, one mark an attack at one radius, one colour a policy.

    Where a radius was not tried by anybody, all others are shown.
    """
    tried = {one["epsilon"] for _, evaluation in evaluations for one in evaluation["results"]}
    if epsilon is not None and all(abs(at - epsilon) > 1e-12 for at in tried):
        epsilon = None

    def paint(axes: Any) -> None:
        for place, (title, evaluation) in enumerate(evaluations):
            shown: dict[str, dict[str, Any]] = {}
            for one in evaluation["results"]:
                at = one["attack"] == NATURAL or epsilon is None or abs(one["epsilon"] - epsilon) < 1e-12
                # several settings of one attack: the costliest
                before = shown.get(one["attack"])
                if at and (before is None or one["cost"]["mean"] > before["cost"]["mean"]):
                    shown[one["attack"]] = one
            for i, (name, one) in enumerate(shown.items()):
                alone = len(evaluations) == 1
                colour = f"C{(i if alone else place) % 10}"
                label = name if alone else f"{title}: {name}"
                across = [
                    [one["cost"]["mean"] - one["cost"]["ci95"][0]],
                    [one["cost"]["ci95"][1] - one["cost"]["mean"]],
                ]
                axes.errorbar(
                    one["cost"]["mean"],
                    one["reward"]["mean"],
                    xerr=across,
                    fmt=_MARKERS[i % len(_MARKERS)],
                    color=colour,
                    markersize=6,
                    label=label,
                )
        axes.axvline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="cost an episode (less is safer)", ylabel="reward an episode (more is better)")
        _legend(axes, 3 if len(evaluations) == 1 else 2)

    rows = sum(len({one["attack"] for one in e["results"]}) for _, e in evaluations)
    return _draw(paint, (_SIZE[0], _SIZE[1] + 0.08 * rows))


def _with_start(curve: list[dict[str, Any]], natural: dict[str, Any], along: str) -> list[dict[str, Any]]:
    # no perturbation is the curve's beginning whoever attacks
    return [natural, *curve] if along == "epsilon" and curve[0]["epsilon"] > 0 else curve


def along(
    evaluations: Evaluations, setting: str, quantity: str, cost_limit: float, epsilon: float | None
) -> str | None:
    """Return cost or reward against a setting, one line an attack; None where nothing varies in it.

    Args:
        setting: epsilon, steps, restarts or queries.
        quantity: cost or reward.
        epsilon: the radius to mark; effort at another one is labelled so.
    """
    lines = []
    for title, evaluation in evaluations:
        for curve in curves(evaluation["results"], setting):
            label = curve[0]["attack"] if len(evaluations) == 1 else f"{title}: {curve[0]['attack']}"
            at = curve[0]["epsilon"]
            if setting != "epsilon" and epsilon is not None and abs(at - epsilon) > 1e-12:
                label += f", epsilon {at:g}"
            lines.append((label, _with_start(curve, evaluation["results"][0], setting)))
    if not lines:
        return None

    def paint(axes: Any) -> None:
        for place, (label, curve) in enumerate(lines):
            x = [one[setting] for one in curve]
            marker, colour = _MARKERS[place % len(_MARKERS)], f"C{place % 10}"
            axes.plot(x, [one[quantity]["mean"] for one in curve], f"{marker}-", color=colour, label=label)
            low, high = zip(*(one[quantity]["ci95"] for one in curve), strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if quantity == "cost":
            axes.axhline(cost_limit, label="cost limit", **_LIMIT)
        if setting == "epsilon" and epsilon:
            axes.axvline(epsilon, color="gray", linestyle=":", label="radius to withstand")
        if setting != "epsilon":
            axes.set_xscale("log")
            ticks = sorted({one[setting] for _, curve in lines for one in curve})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        names = {"epsilon": "epsilon, raw observation units", "queries": "queries a state"}
        axes.set(xlabel=names.get(setting, f"{setting} of the search"), ylabel=f"{quantity} an episode")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        _legend(axes, 3 if len(evaluations) == 1 else 1)

    extra = 0.18 * len(lines) if len(evaluations) > 1 else 0.0
    return _draw(paint, (_SIZE[0], _SIZE[1] + extra))


def path(scene: dict[str, Any], episode: dict[str, Any]) -> str:
    """Return one episode from above, clean and attacked, with the safety boundary.

    Args:
        scene, episode: of `trajectories` in an evaluation.
    """
    from matplotlib.patches import Circle

    def paint(axes: Any) -> None:
        bounded_x = scene["axis"] == "x"
        line = axes.axvline if bounded_x else axes.axhline
        line(scene["limit"], label="safety boundary", **_LIMIT)
        line(-scene["limit"], **_LIMIT)
        if scene["radius"] is not None:
            axes.add_patch(Circle((0, 0), scene["radius"], fill=False, color="gray", linestyle=":"))
        for label, colour in (("clean", "C0"), ("attacked", "C1")):
            xy = episode[label]["xy"]
            x, y = zip(*xy, strict=True)
            axes.plot(x, y, color=colour, linewidth=1.4, label=f"{label}, cost {episode[label]['cost']:.0f}")
        axes.plot(x[0], y[0], "ko", markersize=5, label="start")
        axes.set(xlabel="x, metres", ylabel="y, metres")
        if scene["radius"] is not None:
            axes.set_aspect("equal", adjustable="datalim")
        _legend(axes, 2)

    return _draw(paint, (_SIZE[0], _SIZE[1] + 0.6))


def learning(runs: Sequence[tuple[str, dict[str, list[float]]]], quantity: str, cost_limit: float) -> str:
    """Return reward or cost of the roll-outs against environment steps, while training."""

    def paint(axes: Any) -> None:
        for label, curve in runs:
            axes.plot(curve["env_steps"], curve[quantity], label=label)
        if quantity == "cost":
            axes.axhline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="environment steps", ylabel=f"{quantity} an episode")
        _legend(axes)

    return _draw(paint)
