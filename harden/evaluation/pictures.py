"""The pictures of a report, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from harden.config.attacks import NATURAL
from harden.evaluation.checks import curves
from harden.evaluation.verdict import at_radius, meant_radius

Evaluations = Sequence[tuple[str, dict[str, Any]]]

_MARKERS = "osD^v<>PX*ph"
_LIMIT = {"color": "#cf222e", "linestyle": "--", "linewidth": 1.2}
_STYLE: Any = {
    "font.size": 10,
    # a title may hold a dollar
    "text.parse_math": False,
    "svg.hashsalt": "harden",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# letters of a label, and of the labels and marks that fit side by side below a picture of 4.6 inches
_LABEL, _ACROSS, _MARK = 28, 68, 7


def shortened(titles: Sequence[str]) -> list[str]:
    """Return titles that leave a picture room: of a long one its beginning and its end."""
    end = (_LABEL - 1) // 2
    short = [t if len(t) <= _LABEL else f"{t[: _LABEL - 1 - end]}…{t[-end:]}" for t in titles]
    # what told them apart may have been in the middle
    alike = len(set(short)) < len(set(titles))
    return [f"{index}. {title}" for index, title in enumerate(short, 1)] if alike else short


def _draw(paint: Callable[[Any], None], height: float = 3.0) -> str:
    """Return a figure with one pair of axes, and a legend below it, as a data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25)
        paint(axes)
        handles, labels = axes.get_legend_handles_labels()
        longest = max((len(label) for label in labels), default=0)
        columns = min(3, max(1, _ACROSS // (longest + _MARK)))
        figure.set_size_inches(4.6, height + 0.17 * -(-len(labels) // columns))
        figure.legend(handles, labels, fontsize=8, ncols=columns, loc="outside lower center", frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _labels(evaluations: Evaluations) -> list[str]:
    """Return what stands before an attack's name: nothing where there is one policy."""
    if len(evaluations) == 1:
        return [""]
    return [f"{title}: " for title in shortened([title for title, _ in evaluations])]


def reward_cost(evaluations: Evaluations, cost_limit: float) -> str:
    """Return reward against cost, a mark an attack, a colour a policy, each at its radius to withstand.

    Where nobody tried that radius, all others are shown; of several settings of an attack the costliest.
    """
    tried = any(
        at_radius(entry, meant_radius(evaluation))
        for _, evaluation in evaluations
        for entry in evaluation["results"]
    )

    def paint(axes: Any) -> None:
        for index, (label, (_, evaluation)) in enumerate(zip(_labels(evaluations), evaluations, strict=True)):
            shown: dict[str, dict[str, Any]] = {}
            for entry in evaluation["results"]:
                name = entry["attack"]
                if tried and name != NATURAL and not at_radius(entry, meant_radius(evaluation)):
                    continue
                if name not in shown or entry["cost"]["mean"] > shown[name]["cost"]["mean"]:
                    shown[name] = entry
            for i, (name, entry) in enumerate(shown.items()):
                mean, (low, high) = entry["cost"]["mean"], entry["cost"]["ci95"]
                axes.errorbar(
                    mean,
                    entry["reward"]["mean"],
                    # rounding may put an end of the interval on the other side of the mean
                    xerr=[[max(mean - low, 0.0)], [max(high - mean, 0.0)]],
                    fmt=_MARKERS[i % len(_MARKERS)],
                    color=f"C{(index if label else i) % 10}",
                    label=label + name,
                )
        axes.axvline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="cost an episode (less is safer)", ylabel="reward an episode (more is better)")

    return _draw(paint)


def along(evaluations: Evaluations, setting: str, quantity: str, cost_limit: float) -> str | None:
    """Return cost or reward against a setting, one line an attack; None where nothing varies in it.

    Args:
        setting: epsilon, steps, restarts or queries.
        quantity: cost or reward.
    """
    lines = []
    for label, (_, evaluation) in zip(_labels(evaluations), evaluations, strict=True):
        for curve in curves(evaluation["results"], setting):
            name = label + curve[0]["attack"]
            if setting == "epsilon" and curve[0]["epsilon"] > 0:
                # no perturbation is the curve's beginning whoever attacks
                curve = [evaluation["results"][0], *curve]
            elif setting != "epsilon" and not at_radius(curve[0], meant_radius(evaluation)):
                name += f", epsilon {curve[0]['epsilon']:g}"
            lines.append((name, curve))
    if not lines:
        return None

    def paint(axes: Any) -> None:
        for index, (label, curve) in enumerate(lines):
            x = [entry[setting] for entry in curve]
            marker, colour = _MARKERS[index % len(_MARKERS)], f"C{index % 10}"
            axes.plot(x, [e[quantity]["mean"] for e in curve], f"{marker}-", color=colour, label=label)
            low, high = zip(*(entry[quantity]["ci95"] for entry in curve), strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if quantity == "cost":
            axes.axhline(cost_limit, label="cost limit", **_LIMIT)
        if setting == "epsilon":
            for radius in sorted({meant_radius(evaluation) or 0.0 for _, evaluation in evaluations} - {0.0}):
                axes.axvline(radius, color="gray", linestyle=":", label=f"radius to withstand {radius:g}")
        else:
            axes.set_xscale("log")
            ticks = sorted({entry[setting] for _, curve in lines for entry in curve})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=setting, ylabel=f"{quantity} an episode")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))

    return _draw(paint)


def path(scene: dict[str, Any], episode: dict[str, Any]) -> str:
    """Return one episode from above, clean and attacked, with the safety boundary.

    Args:
        scene, episode: of `trajectories` in an evaluation.
    """
    from matplotlib.patches import Circle

    def paint(axes: Any) -> None:
        line = axes.axvline if scene["axis"] == "x" else axes.axhline
        line(scene["limit"], label="safety boundary", **_LIMIT)
        line(-scene["limit"], **_LIMIT)
        for label, colour in (("clean", "C0"), ("attacked", "C1")):
            x, y = zip(*episode[label]["xy"], strict=True)
            axes.plot(x, y, color=colour, linewidth=1.4, label=f"{label}, cost {episode[label]['cost']:.0f}")
        axes.plot(x[0], y[0], "ko", markersize=5, label="start")
        axes.set(xlabel="x, metres", ylabel="y, metres")
        if scene["radius"] is not None:
            axes.add_patch(Circle((0, 0), scene["radius"], fill=False, color="gray", linestyle=":"))
            axes.set_aspect("equal", adjustable="datalim")

    return _draw(paint, height=3.6)


def learning(
    runs: Sequence[tuple[str, dict[str, list[float]]]], quantity: str, cost_limit: float | None
) -> str:
    """Return reward or cost of the roll-outs against environment steps, while training.

    Args:
        cost_limit: that of all the runs, None where they have several.
    """

    def paint(axes: Any) -> None:
        for label, (_, curve) in zip(shortened([title for title, _ in runs]), runs, strict=True):
            axes.plot(curve["env_steps"], curve[quantity], label=label)
        if quantity == "cost" and cost_limit is not None:
            axes.axhline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="environment steps", ylabel=f"{quantity} an episode")

    return _draw(paint)
