"""The benchmark: the runs of the paper's tables, and the page made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from harden.cli.main import FOLDER, Numbers, Shared, main, pass_shared
from harden.errors import HardenError, InputError, MissingInputError

_TABLES = ("table5", "table6", "table7", "table8", "figure2")


@main.command()
@click.argument("tables", nargs=-1, type=click.Choice(_TABLES))
@click.option("--task", "tasks", help="Tasks, with commas [all of the paper's].")
@click.option("--variant", "variants", help="Variants, with commas [the table's].")
@click.option("--seeds", type=Numbers(int), default="0,1,2,3,4", help="Seeds, with commas [0,1,2,3,4].")
@click.option(
    "--budget",
    type=click.Choice(["reduced", "paper"]),
    default="reduced",
    help="The pipelines' own sizes, or the paper's.",
)
@click.option(
    "--env-steps", type=click.IntRange(min=1, max=1_000_000_000), help="Steps of every run, instead."
)
@click.option("--set", "keys", multiple=True, metavar="KEY=VALUE", help="Change a key of every run.")
@click.option("--label", help="What the page calls runs of that budget.")
@click.option("--workers", type=click.IntRange(min=1, max=1000), default=1, help="Runs at a time [1].")
@click.option("--retry-failed", is_flag=True, help="Try runs again that failed.")
@click.option("--render", is_flag=True, help="Make the page and its pictures, of the whole ledger.")
@click.option("--into", type=FOLDER, help="With --render: a file with a place for a table.")
@click.option("--ledger", type=FOLDER, default=Path("benchmarks/results/ledger"), help="One JSON a run.")
@click.option("--work", type=FOLDER, default=Path("runs/benchmark"), help="Where the runs are kept.")
@click.option("--out", type=FOLDER, default=Path("docs/results.md"), help="With --render: the page.")
@pass_shared
def benchmark(
    shared: Shared,
    tables: tuple[str, ...],
    render: bool,
    into: Path | None,
    ledger: Path,
    out: Path,
    **options: Any,
) -> None:
    """Run what the paper's tables still lack, widest first; it can be stopped and called again."""
    if render:
        _render(shared, tables, ledger, out, into)
        return
    if not tables:
        raise InputError("no table is named", f"choose from: {', '.join(_TABLES)}; or --render")
    _run(shared, tables, ledger, options)


def _run(shared: Shared, tables: Sequence[str], ledger: Path, options: dict[str, Any]) -> None:
    from harden.benchmark import sweep

    jobs, workers = _jobs(tables, options), options["workers"]
    left = sweep.what_is_left(jobs, ledger, options["retry_failed"])
    for job, reason in left.failed:
        click.echo(f"failed before: {sweep.describe(job)}: {reason}")
    length = sweep.length(left.todo, ledger, workers)
    click.echo(f"{left.done} of {len(jobs)} runs are done; left: {len(left.todo)} runs, {length}")
    if shared.dry_run:
        for job in left.todo:
            click.echo(f"  {sweep.describe(job)} ({job.budget}): {sweep.length([job], ledger, 1)}")
        return
    say = (lambda line: None) if shared.quiet else click.echo
    failures = sweep.sweep(left.todo, ledger, options["work"], workers, say)
    if failures:
        raise HardenError(
            f"{failures} of {len(left.todo)} runs failed, as the ledger says", "mend it, then --retry-failed"
        )


def _jobs(tables: Sequence[str], options: dict[str, Any]) -> list[Any]:
    from harden.benchmark.tables import TASKS, Budget, jobs

    tasks = options["tasks"].split(",") if options["tasks"] else TASKS
    variants = options["variants"].split(",") if options["variants"] else ()
    if unknown := [task for task in tasks if task not in TASKS]:
        raise InputError(f"task '{unknown[0]}' is not in the paper's tables", f"choose: {', '.join(TASKS)}")
    budget = Budget(options["budget"] == "paper", options["env_steps"], options["keys"], options["label"])
    return jobs(tables, tasks, variants, options["seeds"], budget)


def _render(shared: Shared, tables: tuple[str, ...], ledger: Path, out: Path, into: Path | None) -> None:
    from harden.benchmark.page import with_headline, write_page
    from harden.storage.files import require_writable, write_text

    if tables:
        raise InputError("--render makes the whole page", "leave the tables' names out")
    if not ledger.is_dir():
        raise MissingInputError(f"ledger {ledger} is no folder", "name one that is there with --ledger")
    if into is not None and not into.is_file():
        raise MissingInputError(f"{into} is missing", "name a file with a place for the table with --into")
    text = None if into is None else with_headline(into, ledger)
    outs = [out, *([] if into is None else [into])]
    for path in outs:
        require_writable(path)
    shared.end_dry_run(*outs)
    written = write_page(ledger, out)
    if into is not None and text is not None:
        write_text(into, text)
        written.append(into)
    for path in written:
        click.echo(f"-> {path}")
