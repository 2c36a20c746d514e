"""The command line's root, and what commands share: whatever is refused becomes one line and an exit code."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harden import signals
from harden.errors import CommandEnd, InputError, Interrupted, StorageError
from harden.policies.reading import ACTIVATIONS, KINDS, SPREADS, SQUASHES, Reading

if TYPE_CHECKING:
    import torch

    from harden.config.pipeline import PipelineConfig
    from harden.progress import Reporter
    from harden.stages.ready import Ready
    from harden.training.workspace import Workspace


class Real(click.FloatRange):
    """A number, within a range where one is given; "nan" is within any to a comparison, and is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"'{value}' is not a number", param, ctx)
        return number


class Numbers(click.ParamType):
    """One or several numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return them as a list."""
        try:
            return [self.kind(part) for part in str(value).split(",")]
        except ValueError:
            kind = "a whole number" if self.kind is int else "a number"
            self.fail(f"'{value}' is not {kind}, or several with commas between", param, ctx)


F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
FOLDER = click.Path(path_type=Path)
version_option = click.version_option(version("harden"), prog_name="harden")


@dataclasses.dataclass(frozen=True)
class Shared:
    """What every command was told besides its own options.

    Args:
        threads: of the mathematics.
        quiet: say nothing but the result.
        dry_run: write nothing.
    """

    threads: int
    quiet: bool
    dry_run: bool

    def end_dry_run(self, *paths: Path) -> None:
        """Say what would be written and end, where this is a dry run."""
        if self.dry_run:
            for path in paths:
                click.echo(f"would write {path}")
            raise click.exceptions.Exit


pass_shared = click.make_pass_decorator(Shared)


# what stands after a stop, where it is not what stands after all others; train says it itself
_STANDS = {
    "benchmark": "finished runs are in the ledger: the same command goes on with the others",
    "init": "remove what it wrote, and run it again",
}
_ELSEWHERE = "what was stored before stands, its own result is written at its end: run it again"


def _set_threads(count: int) -> None:
    """Set how many threads torch computes with, without importing it: what is refused does not wait for it.

    One by default: more are no faster on networks this small, and results depend on their number.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    names = "OMP_NUM_THREADS", "MKL_NUM_THREADS"
    os.environ |= dict.fromkeys(names, str(count)) | {"MKL_DYNAMIC": "FALSE"}


class Command(click.Command):
    """A command with the options that all of them have; `pass_shared` hands their values on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for option in (
            click.option(
                "--threads", type=click.IntRange(1, 1000), default=1, help="Threads of the mathematics [1]."
            ),
            click.option("--quiet", is_flag=True, help="Say nothing but the result."),
            click.option(
                "--dry-run", is_flag=True, help="Check everything, say what would be written, write nothing."
            ),
            version_option,
        ):
            option(self)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it with their values in the context instead of among its own."""
        names = [field.name for field in dataclasses.fields(Shared)]
        ctx.obj = Shared(**{name: ctx.params.pop(name) for name in names})
        _set_threads(ctx.obj.threads)
        try:
            with signals.kept():
                return super().invoke(ctx)
        except Interrupted as error:
            stands = error.remedy or _STANDS.get(ctx.info_name or "", _ELSEWHERE)
            raise type(error)(error.message, stands) from None


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage command begins with.

    Args:
        config: the resolved pipeline.
        also: the same with the other values of options that took several.
        workspace: its folders.
        device_name: auto, cpu or cuda.
        report: says how far it is.
        dry_run: open and check the inputs, and do nothing with them.
    """

    config: PipelineConfig
    also: list[PipelineConfig]
    workspace: Workspace
    device_name: str
    report: Reporter
    dry_run: bool

    @property
    def device(self) -> torch.device:
        """Where it is computed; torch comes with it, and takes a second: a wrong word is refused before."""
        from harden.training.workspace import pick_device

        return pick_device(self.device_name)

    def run(self, stage: Callable[..., Ready[T]], *inputs: Any, **options: Any) -> T:
        """Open a stage and let it do its work, as `work`."""
        return self.work(stage(self.config, *inputs, device=self.device, report=self.report, **options))

    def work(self, ready: Ready[T]) -> T:
        """Let a stage do its work; in a dry run print what it would read and write, and end."""
        if not self.dry_run:
            return ready.work()
        also = [{"evaluate": config.evaluate.model_dump(mode="json")} for config in self.also]
        resolved = {
            "pipeline": self.workspace.name,
            "config": self.config.model_dump(mode="json"),
            **({"also": also} if also else {}),
            "reads": [str(path) for path in ready.reads],
            "writes": [str(path) for path in ready.writes],
        }
        click.echo(json.dumps(resolved, indent=2))
        raise click.exceptions.Exit


def stage_options(command: F) -> F:
    """Give a command the options that all stages share, and hand it a Context."""

    @click.option("-p", "--pipeline", type=FOLDER, help="Pipeline file [pipelines/ball-circle.toml].")
    @click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the pipeline."
    )
    @click.option("--seed", type=int, help="Seed of everything random.")
    @click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Where it is computed [auto].",
    )
    @pass_shared
    @functools.wraps(command)
    def wrapped(
        shared: Shared, pipeline: Path | None, assignments: tuple[str, ...], device: str, **options: Any
    ) -> Any:
        from harden.config.file import DEFAULT_PIPELINE, find_pipeline, load_config, variations

        path = pipeline or DEFAULT_PIPELINE
        file = find_pipeline(path)
        checked = load_config(file, [*assignments, *_as_keys(options)])
        from harden.envs.ask import completed
        from harden.progress import Reporter
        from harden.training.workspace import Workspace

        loaded = completed(checked)
        values = {name: options.pop(name) for name in _SEVERAL if name in options}
        several = {name: v if isinstance(v, list) else [v] for name, v in values.items() if v is not None}
        config, *also = variations(loaded, several)
        workspace, report = Workspace.named(path.stem), Reporter(shared.quiet)
        context = Context(config, also, workspace, device, report, shared.dry_run)
        names_input = any(isinstance(options[name], Path) for name in options.keys() - _OUTPUTS)
        try:
            return command(context, **options)
        except InputError as error:
            # the other kinds are of a file as such, whatever it is used for
            if pipeline is not None or not names_input or type(error) is not InputError:
                raise
            assumed = f"no -p was given, so that pipeline {file} of task '{config.task_row.name}' holds"
            remedy = f"{error.remedy}; {assumed}" if error.remedy else assumed
            raise InputError(error.message, remedy) from error

    return wrapped  # type: ignore[return-value]


def policy_options(command: F) -> F:
    """Give a command that takes a policy file the options for what such a file does not say of itself."""

    @click.option(
        "--from",
        "kind",
        type=click.Choice(KINDS),
        help="Policy file's format, where its suffix does not say.",
    )
    @click.option("--output", help="Which output of a policy file with several is the action.")
    @click.option(
        "--activation", type=click.Choice(ACTIVATIONS), help="What a state dict's hidden layers apply."
    )
    @click.option("--squash", type=click.Choice(SQUASHES), help="What a state dict's last layer applies.")
    @click.option("--spread", type=click.Choice(SPREADS), help="What a policy file's second output is.")
    @functools.wraps(command)
    def wrapped(*args: Any, **options: Any) -> Any:
        return command(*args, reading=Reading(*(options.pop(name) for name in Reading._fields)), **options)

    return wrapped  # type: ignore[return-value]


# options that name a file, and no input
_OUTPUTS = {"out", "json_path", "html"}
# keys of the evaluate section whose options take several values
_SEVERAL = ("epsilon", "attack_steps", "restarts")
# options that are short names of keys
_KEYS = {
    "seed": "seed",
    "env_steps": "train.env_steps",
    "offline": "train.offline",
    "variant": "variant",
    "attack_style": "evaluate.attack_style",
    "queries": "evaluate.queries",
    "eval_episodes": "evaluate.episodes",
    "norm": "evaluate.norm",
    "action": "evaluate.action",
}


def _as_keys(options: dict[str, Any]) -> list[str]:
    """Take out the options that are short names of keys; return those given as assignments."""
    values = {key: options.pop(name) for name, key in _KEYS.items() if name in options}
    # as TOML: its strings and truths are JSON's, its numbers (nan among them) are Python's
    return [
        f"{key}={json.dumps(value) if isinstance(value, str | bool) else repr(value)}"
        for key, value in values.items()
        if value is not None
    ]


# how torch says it, on a processor and on an accelerator
_NO_MEMORY = ("can't allocate memory", "out of memory")


def _fail(error: CommandEnd) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def _one_line(error: click.ClickException) -> InputError:
    """Return what click refuses, in several lines, as an error of one line."""
    text = " ".join(error.format_message().split()).rstrip(".")
    # a wrong word before any command has no command to ask
    ctx = getattr(error, "ctx", None)
    return InputError(text[:1].lower() + text[1:], f"see: {ctx.command_path if ctx else 'harden'} --help")


class _Group(click.Group):
    """Turns what is refused into one line and the right exit code; anything else is a defect and shows."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        version_option(self)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with a whole sentence: click's own are cut at the end of a line."""
        with formatter.section("Commands"):
            known = sorted(self.commands.items())
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in known])

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line; never returns."""
        signals.listen()
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except CommandEnd as error:
            _fail(error)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_one_line(error))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(text in str(error) for text in _NO_MEMORY):
                raise
            _fail(InputError("there is not enough memory for this", "ask for less of it at once"))
        except PermissionError as error:
            text = f"can't use {error.filename or 'a file'} ({error.strerror})"
            _fail(StorageError(text, "get leave to read it, such as with chmod"))
        except (click.Abort, KeyboardInterrupt):
            _fail(Interrupted("stopped by Ctrl-C"))
        sys.exit(code or 0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Harden a safe robot policy against observation attacks, from benign data only."""
