"""Data sets: what is in them, from and to other formats, and made of one another."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from harden.cli.main import FOLDER, Real, Shared, main, pass_shared
from harden.errors import InputError

# the readers of harden.data, without importing it for a list of words
_FORMATS = ["hdf5", "dsrl", "d4rl", "robomimic", "minari", "lerobot", "parquet", "csv", "npz"]
_AT_HORIZON, _AT_BREAK = click.Choice(["timeout", "terminal"]), click.Choice(["timeout", "keep"])
_TAIL = click.Choice(["drop", "keep"])
_OUT = click.option("--out", type=FOLDER, required=True, help="Where it goes; nothing may be there yet.")


@main.group()
def data() -> None:
    """Look at data sets, convert them, and make new ones of them."""


@data.command()
@click.argument("path", type=FOLDER)
def info(path: Path) -> None:
    """Say what a data set holds."""
    from harden.data.dataset import open_dataset
    from harden.data.episodes import summarise

    dataset = open_dataset(path)
    _print_figures(path, summarise(dataset.info, dataset.shards()))
    _print_notes(dataset.unlisted())


def _print_notes(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"note: {line}")


def _print_figures(path: Path, figures: dict[str, Any]) -> None:
    click.echo(
        f"{path}: {figures['env_id'] or 'environment unknown'}, horizon {figures['horizon'] or 'unknown'}, "
        f"{figures['transitions']:,} transitions in {figures['episodes']:,} episodes, "
        f"{len(figures['shards'])} shards, reward {figures['reward']['mean']:.1f}, "
        f"cost {figures['cost']['mean']:.2f} an episode"
    )
    click.echo(
        f"ended by the dynamics {figures['terminals']:,}, by the time limit {figures['timeouts']:,}; "
        f"the next observation is the next step's in {figures['continuous']:.1%} of steps"
        + ("; COLLECTED UNDER ATTACK, in part or all" if figures["attacked"] else "")
    )
    _print_table("episode", {name: figures[name] for name in ("reward", "cost", "length")})
    for name in ("observations", "actions"):
        columns = figures[name]
        rows = zip(*columns.values(), strict=True)
        _print_table(name, {str(i): dict(zip(columns, row, strict=True)) for i, row in enumerate(rows)})
    shown = ("episodes", "transitions", "mean_reward", "mean_cost", "terminals", "timeouts", "behaviour")
    _print_table("shard", {entry["name"]: {key: entry[key] for key in shown} for entry in figures["shards"]})


def _print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    width = max(len(name) for name in [title, *rows])
    click.echo()
    heads = list(next(iter(rows.values())))
    for name, cells in [(title, heads), *((name, row.values()) for name, row in rows.items())]:
        texts = (f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in cells)
        click.echo(f"{name:<{width}}" + "".join(f"  {text:>13}" for text in texts))


@data.command()
@click.argument("path", type=FOLDER)
def verify(path: Path) -> None:
    """Read every byte of a data set and compare it with its checksums."""
    from harden.data.dataset import open_dataset

    dataset = open_dataset(path)
    problems = dataset.verify()
    _print_notes([f"{line}; take it in with: harden data repair {path}" for line in dataset.unlisted()])
    for problem in problems:
        click.echo(problem)
    if problems:
        mend = f"keep what is whole with: harden data repair {dataset.folder}" if dataset.has_manifest else ""
        raise InputError(f"{path} has {len(problems)} problems", mend)
    alone = ": values and structure are sound; a single file has no checksum stored to compare"
    click.echo(f"{path}{' is whole' if dataset.has_manifest else alone}")


@data.command()
@click.argument("path", type=FOLDER)
@pass_shared
def repair(shared: Shared, path: Path) -> None:
    """Keep all whole shards, set damaged ones aside, write the manifest anew."""
    from harden.data.edit import repair as mend

    done = mend(path, shared.dry_run)
    would = "would be " * shared.dry_run
    aside = f"{would}set aside in {path / 'damaged'}"
    for what, shards in ((aside, done.aside), ("lost", done.lost), (f"{would}taken in", done.taken_in)):
        for line in shards:
            click.echo(f"{what}: {line}")
    click.echo(f"{path} holds {_size(done.info)} in {len(done.info.shards)} whole shards")
    shared.end_dry_run(path / "manifest.json")


@data.command("import")
@click.argument("path", metavar="FILE", type=FOLDER)
@click.option("--from", "source", type=click.Choice(_FORMATS), help="Format of the file [detected].")
@click.option(
    "--map",
    "columns",
    metavar="KEY=COLUMNS,...",
    multiple=True,
    help="Columns of obs, action, reward, cost, and of next_obs, terminal, timeout, episode, step where the "
    "file has them; * stands for any letters, + is between several [proposed].",
)
@click.option("--env-id", default="", help="Environment, where the file does not say.")
@click.option("--horizon", type=click.IntRange(min=1), help="Steps of the time limit, likewise.")
@click.option("--at-horizon", type=_AT_HORIZON, help="What a terminal on the time limit's last step is.")
@click.option("--at-break", type=_AT_BREAK, help="What a row is that leads elsewhere without a flag.")
@click.option("--shift-flags", "shift", type=click.IntRange(-1, 1), help="Rows to move flags of ends by.")
@click.option("--tail", type=_TAIL, help="Rows at the end that are all alike, as if never filled.")
@_OUT
@pass_shared
@click.pass_context
def import_file(
    context: click.Context,
    shared: Shared,
    path: Path,
    source: str | None,
    columns: tuple[str, ...],
    horizon: int | None,
    out: Path,
    **choices: Any,
) -> None:
    """Make a data set of logs in another format: a file, a folder or 'pattern' of one file an episode.

    A dry run shows what would be made of them.
    """
    from harden.data.convert import preview, read_log, store_log
    from harden.data.formats.columns import parse_columns
    from harden.data.formats.log import ImportOptions
    from harden.storage.folders import require_place

    options = ImportOptions(parse_columns(columns), _without_map(context), horizon=horizon or 0, **choices)
    require_place(out)
    log = read_log(path, source, options)
    if shared.dry_run:
        _print_figures(path, preview(log))
    _print_notes(log.notes)
    shared.end_dry_run(out)
    click.echo(f"imported {_size(store_log(log, out))} from {path} ({log.format}) -> {out}")


def _without_map(context: click.Context) -> str:
    """Return the command that was given, but for what says which columns are what."""
    words = ["harden", "data", "import"]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if isinstance(option, click.Argument):
            words.append(str(value))
        elif option.name != "columns" and value is not None and value != "":
            words += [option.opts[0], str(value)]
    return shlex.join(words)


@data.command("export")
@click.argument("path", metavar="DATA", type=FOLDER)
@click.option("--to", "target", type=click.Choice(["dsrl", "minari"]), required=True, help="Format to write.")
@_OUT
@pass_shared
def export_file(shared: Shared, path: Path, target: str, out: Path) -> None:
    """Write a data set in the layout of DSRL (one file) or Minari (a folder named NAME-v0)."""
    from harden.data.convert import export_data

    _end_dry_run(shared, [path], out)
    _print_notes(export_data(path, out, target))
    click.echo(f"-> {out}")


@data.command()
@click.argument("paths", metavar="DATA...", nargs=-1, required=True, type=FOLDER)
@_OUT
@pass_shared
def merge(shared: Shared, paths: tuple[Path, ...], out: Path) -> None:
    """Make one data set of several of the same task, in the order given."""
    from harden.data.edit import merge as join

    _end_dry_run(shared, paths, out)
    click.echo(f"merged {len(paths)} data sets: {_size(join(paths, out))} -> {out}")


@data.command("filter")
@click.argument("path", metavar="DATA", type=FOLDER)
@click.option("--min-reward", type=Real(), default=-float("inf"), help="That a whole episode may have.")
@click.option("--max-reward", type=Real(), default=float("inf"), help="That a whole episode may have.")
@click.option("--min-cost", type=Real(), default=-float("inf"), help="That a whole episode may have.")
@click.option("--max-cost", type=Real(), default=float("inf"), help="That a whole episode may have.")
@click.option("--episodes", default="", metavar="A:B,...", help="Numbers from 0, B not included; 7 is 7:8.")
@_OUT
@pass_shared
def filter_data(shared: Shared, path: Path, episodes: str, out: Path, **bounds: float) -> None:
    """Keep the whole episodes within all the limits."""
    from harden.data.edit import filter_episodes

    rewards, costs = ((bounds[f"min_{of}"], bounds[f"max_{of}"]) for of in ("reward", "cost"))
    ranges = [_range(text) for text in episodes.split(",") if episodes]
    _end_dry_run(shared, [path], out)
    click.echo(f"kept {_size(filter_episodes(path, out, rewards, costs, ranges))} -> {out}")


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.strip().partition(":")
    try:
        begin = int(first or 0)
        end = (int(last) if last else 2**62) if colon else begin + 1
        # a blank is not "from the beginning": that is ":"
        if not text.strip() or not 0 <= begin < end:
            raise ValueError
    except ValueError:
        raise InputError(f"'{text}' is no range of episodes", "write 0:100, 250: or 7") from None
    return begin, end


@data.command()
@click.argument("path", metavar="DATA", type=FOLDER)
@click.argument("parts", metavar="NAME=SHARE...", nargs=-1, required=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the draw [0].")
@click.option("--out", type=FOLDER, required=True, help="Folder that the parts are made in.")
@pass_shared
def split(shared: Shared, path: Path, parts: tuple[str, ...], seed: int, out: Path) -> None:
    """Divide episodes at random, as in: split DATA train=0.8 test=0.2 --out parts."""
    from harden.data.edit import split as divide

    shares: dict[str, float] = {}
    for part in parts:
        name, _, share = part.partition("=")
        try:
            if name in shares:
                raise ValueError
            shares[name] = float(share)
        except ValueError:
            raise InputError(f"'{part}' is no part", "write each once, as in train=0.8 test=0.2") from None
    _end_dry_run(shared, [path], *(out / name for name in shares))
    for name, made in divide(path, out, shares, seed).items():
        click.echo(f"{name}: {_size(made)} -> {out / name}")


def _end_dry_run(shared: Shared, paths: Sequence[Path], *outs: Path) -> None:
    """In a dry run check what is read and where it goes, and end."""
    from harden.data.dataset import open_dataset
    from harden.storage.folders import require_place

    if shared.dry_run:
        for out in outs:
            require_place(out)
        for path in paths:
            open_dataset(path)
        shared.end_dry_run(*outs)


def _size(info: Any) -> str:
    return f"{info.transitions:,} transitions in {info.episodes:,} episodes"
