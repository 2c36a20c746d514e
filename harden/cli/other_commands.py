"""What is not a stage: lists, the shipped pipelines."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from harden.cli.main import main
from harden.cli.options import FOLDER, Shared, pass_shared
from harden.errors import InputError


@main.command("list")
@click.argument("what", type=click.Choice(["tasks", "attacks", "variants"]))
def list_names(what: str) -> None:
    """List what can be named, one a line."""
    if what == "tasks":
        from harden.config.tasks import TASKS

        rows = {
            task.name: f"{task.env_id}, horizon {task.horizon}, cost limit {task.cost_limit:g}, "
            f"epsilon {task.epsilon:g}"
            for task in TASKS.values()
        }
    elif what == "variants":
        from harden.config.variants import VARIANTS

        rows = {variant.name: variant.summary for variant in VARIANTS.values()}
    else:
        from harden.evaluation.entries import NAMES

        rows = NAMES
    for name, summary in rows.items():
        click.echo(f"{name:<16} {summary}")


@main.command()
@click.option("--out", type=FOLDER, default=Path("pipelines"), help="Folder to write into.")
@pass_shared
def init(shared: Shared, out: Path) -> None:
    """Write the shipped pipelines into a folder."""
    from harden.config.file import PRESETS
    from harden.storage.files import make_folder, require_writable, storage_errors

    copies = {source: out / source.name for source in sorted(PRESETS.glob("*.toml"))}
    with storage_errors(out):
        for there in copies.values():
            if there.exists():
                raise InputError(f"{there} is there already", "remove it, or name another folder with --out")
            require_writable(there)
    if shared.only_said(*copies.values()):
        return
    make_folder(out)
    with storage_errors(out):
        for source, there in copies.items():
            shutil.copyfile(source, there)
            click.echo(f"-> {there}")
