"""Policies in and out: export, import, info, card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harden.cli.main import FOLDER, Context, Shared, main, pass_shared, policy_options, stage_options

_FORMATS = click.Choice(["onnx", "torchscript", "safetensors"])


@main.group()
def policy() -> None:
    """Bring policies in, take them out to a robot, look at them."""


@policy.command()
@click.argument("policy_dir", metavar="POLICY", type=FOLDER)
@click.option("--to", "kind", type=_FORMATS, required=True, help="Format to write.")
@click.option("--out", type=FOLDER, required=True, help="The file.")
@click.option("--data", type=FOLDER, help="Data set whose observations it is checked on.")
@pass_shared
def export(shared: Shared, policy_dir: Path, kind: str, out: Path, data: Path | None) -> None:
    """Write a policy's mean action, bounds inside, for a robot to run; checked against the original."""
    from harden.stages import policy_files as stage

    ready = stage.export(policy_dir, kind, out, data=data)
    shared.end_dry_run(*ready.writes)
    done, checked_on = ready.work()
    median, tail = (1e6 * seconds for seconds in done.latency)
    time = f"one decision takes {median:.0f} us (median; 99 % within {tail:.0f} us)"
    click.echo(f"exported: differs by at most {done.error:.2g} on {checked_on}; {time} -> {out}")


@policy.command("import")
@stage_options
@policy_options
@click.argument("path", metavar="FILE", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Policy folder.")
@click.option("--data", type=FOLDER, help="Data set of the task: compared on it, distilled on it.")
@click.option("--overwrite", is_flag=True, help="Replace a policy that is there.")
def import_(ctx: Context, path: Path, out: Path, **options: Any) -> None:
    """Make a policy folder of a policy file, or of module:function; TorchScript and functions are run."""
    from harden.stages import policy_files as stage

    done = ctx.run(stage.import_policy, path, out, **options)
    click.echo(f"{done} -> {out}")
    more = f"harden fit-critics -p PIPELINE --policy {out} puts it with some into that pipeline's run"
    click.echo(f"it has no critics yet: harden evaluate fits some for its attacks; {more}")


@policy.command()
@stage_options
@policy_options
@click.argument("named", metavar="POLICY", type=FOLDER)
def info(ctx: Context, named: Path, **options: Any) -> None:
    """Say what a policy folder holds, or how a policy file is taken."""
    from harden.stages.policy_files import policy_info

    for label, text in ctx.run(policy_info, named, **options).items():
        click.echo(f"{label:<13} {text}")


@policy.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@pass_shared
def card(shared: Shared, runs: tuple[Path, ...]) -> None:
    """Write the model card of runs (names or folders) or policy folders: card.md in each."""
    from harden.evaluation.card import CARD, write_card
    from harden.evaluation.reading import run_files

    shared.end_dry_run(*(run_files(path)[0].with_name(CARD) for path in runs))
    for path in runs:
        click.echo(f"-> {write_card(path)}")
