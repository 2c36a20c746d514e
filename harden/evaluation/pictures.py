"""The pictures of a report, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from harden.evaluation.checks import curves
from harden.evaluation.entries import NATURAL
from harden.evaluation.verdict import meant_radius

Evaluations = Sequence[tuple[str, dict[str, Any]]]

_MARKERS = "osD^v<>PX*ph"
_LIMIT = {"color": "#cf222e", "linestyle": "--", "linewidth": 1.2}
# small enough that text stays readable on a phone, where a picture is 9 cm wide; the legend comes below
_SIZE = (4.6, 3.0)
# of a legend, in letters and inches: what fits side by side, what a mark takes, a row's height
_ACROSS, _MARK, _ROW = 68, 7, 0.17
_TITLE = 28


def shortened(titles: Sequence[str]) -> list[str]:
    """Return titles that leave a picture room: of a long one its beginning and its end."""
    end = (_TITLE - 1) // 2
    short = [one if len(one) <= _TITLE else f"{one[: _TITLE - 1 - end]}…{one[-end:]}" for one in titles]
    # what told them apart may have been in the middle
    alike = len(set(short)) < len(set(titles))
    return [f"{place}. {one}" for place, one in enumerate(short, 1)] if alike else short


def _draw(paint: Callable[[Any], None], taller: float = 0.0) -> str:
    """Return a figure with one axes, and a legend below it, as a data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 10,
        # a title may hold a dollar
        "text.parse_math": False,
        "svg.hashsalt": "harden",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.grid(alpha=0.25)
        paint(axes)
        handles, labels = axes.get_legend_handles_labels()
        longest = max((len(label) for label in labels), default=0)
        columns = min(3, max(1, _ACROSS // (longest + _MARK)))
        figure.set_size_inches(_SIZE[0], _SIZE[1] + taller + _ROW * -(-len(labels) // columns))
        figure.legend(handles, labels, fontsize=8, ncols=columns, loc="outside lower center", frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _meant(entry: dict[str, Any], evaluation: dict[str, Any]) -> bool:
    radius = meant_radius(evaluation)
    return radius is not None and abs(entry["epsilon"] - radius) < 1e-12


def reward_cost(evaluations: Evaluations, cost_limit: float) -> str:
    """Return reward against cost, one mark an attack, one colour a policy, each at its radius to withstand.

    Where nobody tried that radius, all others are shown.
    """
    anyhow = not any(
        _meant(one, evaluation) for _, evaluation in evaluations for one in evaluation["results"]
    )

    def paint(axes: Any) -> None:
        names = shortened([title for title, _ in evaluations])
        for place, (title, (_, evaluation)) in enumerate(zip(names, evaluations, strict=True)):
            shown: dict[str, dict[str, Any]] = {}
            for one in evaluation["results"]:
                at = anyhow or one["attack"] == NATURAL or _meant(one, evaluation)
                # several settings of one attack: the costliest
                before = shown.get(one["attack"])
                if at and (before is None or one["cost"]["mean"] > before["cost"]["mean"]):
                    shown[one["attack"]] = one
            for i, (name, one) in enumerate(shown.items()):
                alone = len(evaluations) == 1
                colour = f"C{(i if alone else place) % 10}"
                label = name if alone else f"{title}: {name}"
                mean, (low, high) = one["cost"]["mean"], one["cost"]["ci95"]
                # rounding may put an end of the interval on the other side of the mean
                across = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
                axes.errorbar(
                    mean,
                    one["reward"]["mean"],
                    xerr=across,
                    fmt=_MARKERS[i % len(_MARKERS)],
                    color=colour,
                    markersize=6,
                    label=label,
                )
        axes.axvline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="cost an episode (less is safer)", ylabel="reward an episode (more is better)")

    return _draw(paint)


def _with_start(curve: list[dict[str, Any]], natural: dict[str, Any], along: str) -> list[dict[str, Any]]:
    # no perturbation is the curve's beginning whoever attacks
    return [natural, *curve] if along == "epsilon" and curve[0]["epsilon"] > 0 else curve


def along(evaluations: Evaluations, setting: str, quantity: str, cost_limit: float) -> str | None:
    """Return cost or reward against a setting, one line an attack; None where nothing varies in it.

    Radii to withstand are marked; effort at another one is labelled so.

    Args:
        setting: epsilon, steps, restarts or queries.
        quantity: cost or reward.
    """
    lines, names = [], shortened([title for title, _ in evaluations])
    for title, (_, evaluation) in zip(names, evaluations, strict=True):
        for curve in curves(evaluation["results"], setting):
            label = curve[0]["attack"] if len(evaluations) == 1 else f"{title}: {curve[0]['attack']}"
            if (
                setting != "epsilon"
                and meant_radius(evaluation) is not None
                and not _meant(curve[0], evaluation)
            ):
                label += f", epsilon {curve[0]['epsilon']:g}"
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
        radii = {radius for _, evaluation in evaluations if (radius := meant_radius(evaluation))}
        for radius in sorted(radii) if setting == "epsilon" else ():
            which = f" {radius:g}" if len(radii) > 1 else ""
            axes.axvline(radius, color="gray", linestyle=":", label=f"radius to withstand{which}")
        if setting != "epsilon":
            axes.set_xscale("log")
            ticks = sorted({one[setting] for _, curve in lines for one in curve})
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
        names = {"epsilon": "epsilon, raw observation units", "queries": "queries a state"}
        axes.set(xlabel=names.get(setting, f"{setting} of the search"), ylabel=f"{quantity} an episode")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))

    return _draw(paint)


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

    return _draw(paint, taller=0.6)


def learning(
    runs: Sequence[tuple[str, dict[str, list[float]]]], quantity: str, cost_limit: float | None
) -> str:
    """Return reward or cost of the roll-outs against environment steps, while training.

    Args:
        cost_limit: that of all the runs, None where they have several.
    """

    def paint(axes: Any) -> None:
        names = shortened([title for title, _ in runs])
        for label, (_, curve) in zip(names, runs, strict=True):
            axes.plot(curve["env_steps"], curve[quantity], label=label)
        if quantity == "cost" and cost_limit is not None:
            axes.axhline(cost_limit, label="cost limit", **_LIMIT)
        axes.set(xlabel="environment steps", ylabel=f"{quantity} an episode")

    return _draw(paint)
