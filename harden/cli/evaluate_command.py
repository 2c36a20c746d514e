"""evaluate, and what is made of evaluations: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harden.cli.main import FOLDER, Context, Numbers, Shared, main, pass_shared, policy_options, stage_options
from harden.config.attacks import parse_attacks
from harden.errors import InputError, MissingInputError


@main.command()
@stage_options
@policy_options
@click.option("--policy", "named", type=FOLDER, help="Policy folder, policy file, or module:function.")
@click.option(
    "--attack",
    "names",
    callback=lambda ctx, option, value: parse_attacks(value),
    default="random,mc,mr",
    show_default=True,
    help="Names, with commas, or all; natural always runs.",
)
@click.option("--epsilon", type=Numbers(float), help="Radius, raw observation units; several make a curve.")
@click.option("--attack-style", type=click.Choice(["pgd", "paper"]), help="How gradient attacks climb.")
@click.option(
    "--attack-steps", type=Numbers(int), help="Gradient steps from each start; several make a curve."
)
@click.option("--restarts", type=Numbers(int), help="Random starts a state; several make a curve.")
@click.option("--queries", type=int, help="Values that black-box asks for a state.")
@click.option("--norm", type=click.Choice(["linf", "l2"]), help="Which epsilon bounds.")
@click.option("--action", type=click.Choice(["mean", "sample"]), help="What the policy acts by.")
@click.option("--episodes", "eval_episodes", type=int, help="Episodes an attack.")
@click.option("--independent", type=FOLDER, help="Where fitted critics are kept [beside the policy].")
@click.option("--data", type=FOLDER, help="Data whose spread epsilon is a share of [the run's].")
@click.option(
    "--imagined", is_flag=True, help="Try it in a world model of --data, though the task has a simulation."
)
@click.option(
    "--curves", is_flag=True, help="Try mc and random at 0 to 3 times the radius, and mc with less effort."
)
@click.option(
    "--breaking-radius", "radii", is_flag=True, help="Search each attack's smallest epsilon over the limit."
)
@click.option("--json", "json_path", type=FOLDER, help="Write the evaluation there.")
@click.option("--html", type=FOLDER, help="Write a report of it there: one page.")
def evaluate(
    ctx: Context,
    named: Path | None,
    names: list[str],
    radii: bool,
    data: Path | None,
    json_path: Path | None,
    html: Path | None,
    **options: Any,
) -> None:
    """Try a policy, natural and under attack."""
    from harden.evaluation.entries import table
    from harden.evaluation.radius import radius_table
    from harden.evaluation.reading import Reported
    from harden.evaluation.reference import line_of
    from harden.evaluation.report import write_report
    from harden.evaluation.verdict import imagined, second_opinion
    from harden.stages import evaluate as stage

    # of the run's own policy the run keeps one too, for `status`
    outs = [path for path in (json_path, ctx.workspace.evaluation if named is None else None) if path]
    if data is None and named is None and (ctx.workspace.data / "manifest.json").is_file():
        data = ctx.workspace.data
    policy = named or ctx.workspace.policy
    options |= {"also": ctx.also, "data": data, "outs": outs, "page": html}
    options["run"] = ctx.workspace.run if named is None else None
    options["breaking"] = names if radii else ()
    result = ctx.run(stage.evaluate, policy, names, **options)
    click.echo(table(result["results"], result["cost_limit"]))
    if radii:
        click.echo(radius_table(result["breaking_radius"]))
    click.echo(line_of(result["reference"]))
    if opinion := second_opinion(result):
        click.echo(opinion)
    for lack in imagined(result):
        click.echo(f"warning: {lack}")
    for warning in result["warnings"]:
        click.echo(f"warning: {warning['check']}: {warning['message']}")
    if html is not None:
        write_report(html, [Reported(ctx.workspace.name if named is None else named.name, result)])
        outs.append(html)
    for out in outs:
        click.echo(f"-> {out}")


@main.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("--compare", is_flag=True, help="Put the policies side by side first.")
@click.option("--sign-off", metavar="NAME", help="Who signs it off, by today's date.")
@click.option("--for", "signed", multiple=True, type=FOLDER, help="File that is signed for; repeatable.")
@click.option("--out", type=FOLDER, default=Path("report.html"), help="The page.")
@pass_shared
def report(
    shared: Shared,
    runs: tuple[Path, ...],
    compare: bool,
    sign_off: str | None,
    signed: tuple[Path, ...],
    out: Path,
) -> None:
    """Write one self-contained page of runs (names or folders) or evaluations."""
    from harden.evaluation.reading import load_runs, run_files
    from harden.evaluation.report import write_report
    from harden.storage.files import digest_file, require_apart, require_writable

    if sign_off is not None and not sign_off.strip():
        raise InputError(f"--sign-off '{sign_off}' names nobody", "say who, as in --sign-off 'Ada'")
    if signed and not sign_off:
        raise InputError("--for names what is signed for, and nobody signs", "say who with --sign-off NAME")
    for path in signed:
        if not path.is_file():
            raise MissingInputError(f"{path} is missing", "name a file that is there")
    shown = load_runs(runs)
    digests = {str(path): digest_file(path) for path in (*runs, *signed) if path.is_file()}
    signature = (sign_off, digests) if sign_off else None
    require_apart(out, *(file for path in runs for file in run_files(path)), *signed)
    require_writable(out)
    shared.end_dry_run(out)
    write_report(out, shown, compare, signature)
    click.echo(f"-> {out}")


@main.command()
@stage_options
@policy_options
@click.option("--policy", "named", type=FOLDER, help="Policy to film, as for evaluate.")
@click.option("--attack", default="natural", help="One of harden list attacks; natural is the clean episode.")
@click.option("--epsilon", type=float, help="Radius, raw observation units.")
@click.option("--attack-steps", type=int, help="Gradient steps from each start.")
@click.option("--restarts", type=int, help="Random starts a state.")
@click.option("--norm", type=click.Choice(["linf", "l2"]), help="Which epsilon bounds.")
@click.option(
    "--episode",
    type=click.IntRange(min=0, max=9999),
    default=0,
    help="Which of the evaluation's episodes [0].",
)
@click.option(
    "--every", type=click.IntRange(min=1, max=10_000), default=2, help="Steps from frame to frame [2]."
)
@click.option(
    "--width", type=click.IntRange(min=64, max=1920), default=400, help="Width of a picture in pixels [400]."
)
@click.option("--independent", type=FOLDER, help="Where fitted critics are kept.")
@click.option("--out", type=FOLDER, default=Path("episode.gif"), help="The GIF [episode.gif].")
def render(ctx: Context, named: Path | None, out: Path, **options: Any) -> None:
    """Film an episode as a GIF: clean, and with --attack the attacked one beside it."""
    from harden.stages import render as stage

    policy = named or ctx.workspace.policy
    done = ctx.run(stage.render, policy, out, **options)
    click.echo(
        f"filmed {done.steps} steps in {done.frames} frame{'s' * (done.frames > 1)}: "
        f"reward {done.reward:.1f}, cost {done.cost:.0f} -> {out}"
    )
