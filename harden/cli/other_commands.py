"""What is not a stage: reports, lists, the shipped pipelines."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from harden.cli.main import main
from harden.cli.options import FOLDER
from harden.errors import InputError, MissingInputError


@main.command()
@click.argument("evaluations", nargs=-1, required=True, type=FOLDER)
@click.option("--curve", "curves", multiple=True, type=FOLDER, help="Learning curve CSV; repeatable.")
@click.option("--sign-off", default=None, metavar="NAME", help="Who signs it off, by today's date.")
@click.option("--for", "signed", multiple=True, type=FOLDER, help="File that is signed for; repeatable.")
@click.option("--out", type=FOLDER, default=Path("report.html"), help="The page.")
def report(
    evaluations: tuple[Path, ...],
    curves: tuple[Path, ...],
    sign_off: str | None,
    signed: tuple[Path, ...],
    out: Path,
) -> None:
    """Put evaluations, and the accounts of offline training, side by side in one self-contained page."""
    from harden.evaluation.report import load_curve, load_evaluation, write_report
    from harden.files import digest_file

    if signed and not sign_off:
        raise InputError("--for names what is signed for, and nobody signs", "say who with --sign-off NAME")
    for path in signed:
        if not path.is_file():
            raise MissingInputError(f"{path} is missing", "name a file that is there")
    tables = [(path.stem, load_evaluation(path, offline_too=True)) for path in evaluations]
    digests = {str(path): digest_file(path) for path in (*evaluations, *signed)}
    signature = (sign_off, digests) if sign_off else None
    write_report(out, tables, [(path.parent.name, load_curve(path)) for path in curves], signature)
    click.echo(f"-> {out}")


@main.command("list")
@click.argument("what", type=click.Choice(["tasks", "attacks", "variants"]))
def list_names(what: str) -> None:
    """List what can be named, one a line."""
    from harden.evaluation.entries import NAMES
    from harden.tasks import TASKS
    from harden.variants import VARIANTS

    if what == "tasks":
        for task in TASKS.values():
            click.echo(
                f"{task.name:<16} {task.env_id}, horizon {task.horizon}, cost limit {task.cost_limit:g}, "
                f"epsilon {task.epsilon:g}"
            )
    else:
        variants = {row.name: row.summary for row in VARIANTS.values()}
        for name, summary in (NAMES if what == "attacks" else variants).items():
            click.echo(f"{name:<16} {summary}")


@main.command()
@click.option("--out", type=FOLDER, default=Path("pipelines"), help="Folder to write into.")
def init(out: Path) -> None:
    """Write the shipped pipelines into a folder."""
    from harden.files import make_folder, storage_errors
    from harden.pipeline_file import PRESETS

    make_folder(out)
    for source in sorted(PRESETS.glob("*.toml")):
        there = out / source.name
        if there.exists():
            raise InputError(f"{there} is there already", "remove it, or name another folder with --out")
    with storage_errors(out):
        for source in sorted(PRESETS.glob("*.toml")):
            shutil.copyfile(source, out / source.name)
            click.echo(f"-> {out / source.name}")
