"""One self-contained page: the tables of several evaluations and the curves of the runs behind them."""

from __future__ import annotations

import base64
import csv
import datetime
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harden.errors import DamagedFileError, MissingInputError
from harden.files import read_json, write_text

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid #d0d7de }
th:first-child, td:first-child { text-align: left }
td.over, p.over { background: #ffebe9 } td.within { background: #dafbe1 }
img { max-width: 100%; height: auto } .wide { overflow-x: auto } .note { color: #57606a; font-size: .9rem }
"""


def load_evaluation(path: Path, offline_too: bool = False) -> dict[str, Any]:
    """Read an evaluation file.

    Args:
        offline_too: whether the account of `train --offline` may stand in its place.

    Raises:
        MissingInputError: not there; DamagedFileError: not an evaluation of this format.
    """
    value = read_json(path, "harden evaluate --json FILE")
    known = isinstance(value, dict) and value.get("format_version") == 1
    if not known or ("results" not in value and not ("estimates" in value and offline_too)):
        raise DamagedFileError(f"{path} is not an evaluation", "make one with: harden evaluate --json FILE")
    return value


def load_curve(path: Path) -> dict[str, list[float]]:
    """Read a learning curve: its columns by name.

    Raises:
        MissingInputError: not there; DamagedFileError: not a table of numbers.
    """
    try:
        with open(path, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else {})}
    except FileNotFoundError:
        raise MissingInputError(f"{path} is missing", "harden train writes it") from None
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise DamagedFileError(f"{path} is not a learning curve ({error})") from error


def verdict(evaluation: dict[str, Any]) -> str:
    """Return the evaluation's outcome in one sentence."""
    attacked = [entry for entry in evaluation["results"] if entry["attack"] != "natural"]
    worst = max(attacked or evaluation["results"], key=lambda entry: entry["cost"]["mean"])
    limit = evaluation["cost_limit"]
    word = "stays within" if worst["cost"]["mean"] <= limit else "exceeds"
    natural = evaluation["results"][0]
    several = len({entry["epsilon"] for entry in attacked}) > 1
    where = f"{worst['attack']} at ε {worst['epsilon']:g}" if several else worst["attack"]
    return (
        f"Natural reward {natural['reward']['mean']:.0f} at cost {natural['cost']['mean']:.1f}; its highest "
        f"mean cost, {worst['cost']['mean']:.1f} under {where}, {word} the limit of {limit:g}."
    )


def _rows(evaluation: dict[str, Any]) -> str:
    lines = []
    for entry in evaluation["results"]:
        reward, cost = entry["reward"], entry["cost"]
        mark = "over" if cost["mean"] > evaluation["cost_limit"] else "within"
        how = f"ε {entry['epsilon']:g}" if entry["epsilon"] else ""
        if entry["steps"]:
            how += f", {entry['style']}, {entry['steps']} steps, {entry['restarts']} restarts"
        if entry.get("queries"):
            how += f", {entry['queries']} queries"
        lines.append(
            f"<tr><td>{html.escape(entry['attack'])} <span class=note>{how}</span></td>"
            f"<td>{reward['mean']:.1f} ± {reward['std']:.1f}</td>"
            f"<td class={mark}>{cost['mean']:.2f} ± {cost['std']:.2f}</td>"
            f"<td>[{cost['ci95'][0]:.2f}, {cost['ci95'][1]:.2f}]</td>"
            f"<td>{100 * entry['violation_rate']:.0f} %</td></tr>"
        )
    return "\n".join(lines)


def _warnings(evaluation: dict[str, Any]) -> str:
    said = "".join(f"<li>{html.escape(one['message'])}</li>" for one in evaluation.get("warnings", []))
    return f"<p>Against believing this evaluation:</p><ul>{said}</ul>" if said else ""


def _section(title: str, evaluation: dict[str, Any]) -> str:
    policy = evaluation["policy"]
    first = "; trained offline: these are its first simulated episodes" if policy.get("offline") else ""
    about = (
        f"{evaluation['task']} ({evaluation['env_id']}), {evaluation['episodes']} episodes, seed "
        f"{evaluation['seed']}, policy {policy['path']} ({policy.get('variant')}, digest "
        f"{str(policy.get('policy_digest'))[:12]}), acting with its {evaluation['action']}, "
        f"{evaluation.get('wall_time_s', 0):g} s{first}"
    )
    return (
        f"<h2>{html.escape(title)}</h2><p>{html.escape(verdict(evaluation))}</p><div class=wide><table>"
        "<tr><th>attack</th><th>reward</th><th>cost</th><th>95 % interval of the mean cost</th>"
        f"<th>episodes over the limit</th></tr>{_rows(evaluation)}</table></div>{_warnings(evaluation)}"
        f"<p class=note>{html.escape(about)}. Mean ± standard deviation over episodes.</p>"
    )


def _offline_section(title: str, account: dict[str, Any]) -> str:
    """Return the section of a policy that was never simulated, which says so first."""
    data, fit = account["data"], account["data"]["behaviour"]["held_out"]
    rows = "\n".join(
        f"<tr><td>{html.escape(row['policy'])} <span class=note>{html.escape(row['attack'])}</span></td>"
        f"<td>{row['q_reward']:.2f}</td><td>{row['q_cost']:.3f}</td><td>{row['distance']:.2f}</td>"
        f"<td>{100 * row['outside_data']:.1f} %</td><td>{row['moved_by_attack']:.3f}</td></tr>"
        for row in account["estimates"]
    )
    missing = "".join(f"<li>{html.escape(one)}</li>" for one in account["not_simulated"])
    about = (
        f"{account['task']}, learned from {data['path']} ({data['transitions']:,} transitions, "
        f"{data['episodes']:,} episodes of reward {data['reward']:.1f} and cost {data['cost']:.2f}, digest "
        f"{data['data'][:12]}); the clone's action error on held-out episodes is {fit['action_error']:.3f}; "
        f"policy {account['policy']['path']}, digest {account['policy']['policy_digest'][:12]}"
    )
    return (
        f"<h2>{html.escape(title)}</h2><p class=over><b>Never simulated.</b> What follows are estimates from "
        f"held-out stored states, by critics fitted to the same data. Not known:</p><ul>{missing}</ul>"
        "<div class=wide><table><tr><th>policy</th><th>Q of reward</th>"
        f"<th>Q of cost (allowed {account['kappa']:.3f})</th><th>distance from the data, in spreads</th>"
        "<th>actions outside the data</th><th>action moved by the attack</th></tr>"
        f"{rows}</table></div><p class=note>{html.escape(about)}. MC at \u03b5 {account['epsilon']:g}.</p>"
    )


def _signature(name: str, digests: dict[str, str]) -> str:
    """Return who signs for which files, by digest, and when."""
    files = "".join(
        f"<li>{html.escape(file)} <span class=note>{digest}</span></li>" for file, digest in digests.items()
    )
    day = datetime.date.today().isoformat()
    return f"<h2>Signed off</h2><p>{html.escape(name)}, {day}, for these files (sha256):</p><ul>{files}</ul>"


def curve_picture(curves: Sequence[tuple[str, dict[str, list[float]]]], cost_limit: float) -> bytes:
    """Return a PNG of reward and cost an episode against environment steps, while training.

    Args:
        curves: a label and the columns of a learning curve, each.
        cost_limit: drawn as a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for label, curve in curves:
        axes[0].plot(curve["env_steps"], curve["reward"], label=label)
        axes[1].plot(curve["env_steps"], curve["cost"], label=label)
    axes[1].axhline(cost_limit, color="gray", linestyle="--", label="cost limit")
    for ax, name in zip(axes, ("reward an episode", "cost an episode"), strict=True):
        ax.set(xlabel="environment steps", ylabel=name)
        ax.grid(alpha=0.3)
        ax.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_report(
    out: Path,
    evaluations: Sequence[tuple[str, dict[str, Any]]],
    curves: Sequence[tuple[str, dict[str, list[float]]]],
    signed: tuple[str, dict[str, str]] | None = None,
) -> None:
    """Write the page.

    Args:
        out: the HTML file.
        evaluations: a title and an evaluation, or an account of `train --offline`, each; at least one.
        curves: a label and a learning curve, each.
        signed: who signs it off, and the digests of the files that this is for.
    """
    parts = [
        _section(title, one) if "results" in one else _offline_section(title, one)
        for title, one in evaluations
    ]
    if curves:
        picture = base64.b64encode(curve_picture(curves, evaluations[0][1]["cost_limit"])).decode()
        parts.append(
            "<h2>Learning curves</h2><p>Benign roll-outs while training, with sampled actions.</p>"
            f'<img alt="reward and cost against environment steps" src="data:image/png;base64,{picture}">'
        )
    if signed is not None:
        parts.append(_signature(*signed))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>harden report</title>'
        f"<style>{_STYLE}</style></head><body><h1>harden report</h1>{''.join(parts)}</body></html>\n"
    )
    write_text(out, page)
