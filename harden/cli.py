"""The command line: parse, call the stage, print. Everything it does is one call in Python as well."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click

from harden.errors import HardenError, InputError, Interrupted

F = TypeVar("F", bound=Callable[..., Any])
_FOLDER = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage command begins with."""

    config: Any
    place: Any
    device: Any
    report: Any
    dry_run: bool


def _fail(error: HardenError) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


class _Group(click.Group):
    """Turns our own errors into one line and the right exit code; anything else is a defect and shows."""

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGINT, _interrupt)
        try:
            return super().invoke(ctx)
        except HardenError as error:
            _fail(error)
        except KeyboardInterrupt:
            _fail(Interrupted("stopped by Ctrl-C"))


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Interrupted("stopped by Ctrl-C; what was stored stands", "train goes on from it with --resume")


def stage_options(command: F) -> F:
    """Give a command the options that all stages share, and hand it a Context."""

    @click.option(
        "-p", "--pipeline", type=_FOLDER, default=None, help="Pipeline file [pipelines/ball-circle.toml]."
    )
    @click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the pipeline."
    )
    @click.option("--seed", type=int, default=None, help="Seed of everything random.")
    @click.option("--device", default="auto", help="auto, cpu or cuda.")
    @click.option("--threads", type=click.IntRange(min=1), default=None, help="Threads of the mathematics.")
    @click.option("--quiet", is_flag=True, help="Say nothing but the result.")
    @click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, do nothing.")
    @functools.wraps(command)
    def wrapped(
        pipeline: Path | None,
        assignments: tuple[str, ...],
        seed: int | None,
        device: str,
        threads: int | None,
        quiet: bool,
        dry_run: bool,
        **options: Any,
    ) -> Any:
        import torch

        from harden.config import DEFAULT_PIPELINE, find_pipeline, load_config
        from harden.progress import Reporter
        from harden.stages.workspace import pick_device, workspace

        path = pipeline or DEFAULT_PIPELINE
        extra = [*assignments, *([f"seed={seed}"] if seed is not None else []), *_as_keys(options)]
        config = load_config(find_pipeline(path), extra)
        if threads is not None:
            torch.set_num_threads(threads)
        where = workspace(path.stem)
        context = Context(config, where, pick_device(device), Reporter(quiet), dry_run)
        if dry_run:
            click.echo(
                json.dumps({"pipeline": where.name, "config": config.model_dump(mode="json")}, indent=2)
            )
            return None
        return command(context, **options)

    return wrapped  # type: ignore[return-value]


_KEYS = {
    "env_steps": "train.env_steps",
    "variant": "variant",
    "epsilon": "evaluate.epsilon",
    "attack_steps": "evaluate.attack_steps",
    "restarts": "evaluate.restarts",
    "eval_episodes": "evaluate.episodes",
    "norm": "evaluate.norm",
    "action": "evaluate.action",
}


def _as_keys(options: dict[str, Any]) -> list[str]:
    """Take out the options that are short names of pipeline keys."""
    taken = {name: options.pop(name) for name in list(options) if name in _KEYS}
    return [f"{_KEYS[name]}={json.dumps(value)}" for name, value in taken.items() if value is not None]


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("harden"), prog_name="harden")
def main() -> None:
    """Harden a safe robot policy against observation attacks, from benign data only."""


@main.command()
@stage_options
@click.option("--episodes", type=click.IntRange(min=1), default=None, help="Whole episodes to collect.")
@click.option(
    "--behaviour", type=click.Choice(["random", "policy-mean", "policy-sample", "policy-noise"]), default=None
)
@click.option("--policy", "policy_dir", type=_FOLDER, default=None, help="Policy that acts.")
@click.option("--out", type=_FOLDER, default=None, help="Data set folder.")
def collect(ctx: Context, **options: Any) -> None:
    """Collect benign episodes and append them to the data set."""
    from harden.stages.collect import collect as stage

    done = stage(ctx.config, ctx.place, report=ctx.report, **options)
    shard = done.shard
    click.echo(
        f"collected {shard.transitions:,} transitions in {shard.episodes} episodes ({shard.behaviour}), "
        f"{shard.transitions / done.seconds:,.0f} steps/s, reward {shard.reward / shard.episodes:.1f}, "
        f"cost {shard.cost / shard.episodes:.2f} an episode -> {options['out'] or ctx.place.data}"
    )


@main.command("fit-critics")
@stage_options
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Gradient steps.")
@click.option("--data", type=_FOLDER, default=None, help="Data set.")
@click.option("--policy", "policy_dir", type=_FOLDER, default=None, help="Policy to fit for.")
@click.option("--tensorboard", is_flag=True, help="Log to TensorBoard as well.")
def fit_critics(ctx: Context, **options: Any) -> None:
    """Fit Q_r and Q_c to the stored transitions."""
    from harden.stages.fit_critics import fit_critics as stage

    done = stage(ctx.config, ctx.place, device=ctx.device, report=ctx.report, **options)
    click.echo(f"fitted the critics: {done.steps} steps, loss {done.loss:.4g} -> {ctx.place.critics}")


@main.command("e-step")
@stage_options
@click.option("--states", type=click.IntRange(min=1), default=None, help="States to solve for.")
@click.option("--particles", type=click.IntRange(min=2), default=None, help="Actions a state.")
@click.option("--data", type=_FOLDER, default=None, help="Data set.")
@click.option(
    "--policy", "policy_dir", type=_FOLDER, default=None, help="Policy that particles are drawn from."
)
@click.option("--critics", "critics_dir", type=_FOLDER, default=None, help="Critics that judge them.")
@click.option("--out", type=_FOLDER, default=None, help="Targets file.")
def e_step(ctx: Context, **options: Any) -> None:
    """Make the weighted particles q* that the policy is fitted to."""
    from harden.stages.estep import estep as stage

    done = stage(ctx.config, ctx.place, device=ctx.device, report=ctx.report, **options)
    click.echo(
        f"{done.status}: eta {done.eta:.4g} (exact {done.eta_exact:.4g}), lam {done.lam:.4g} "
        f"(exact {done.lam_exact:.4g}), expected cost {done.expected_cost:.4g} against kappa {done.kappa:.4g} "
        f"-> {options['out'] or ctx.place.targets}"
    )


@main.command("fit-policy")
@stage_options
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Gradient steps.")
@click.option("--targets", "targets_path", type=_FOLDER, default=None, help="Targets file.")
@click.option("--policy", "policy_dir", type=_FOLDER, default=None, help="Policy to fit.")
@click.option(
    "--critics", "critics_dir", type=_FOLDER, default=None, help="Critics that the adversary climbs."
)
@click.option("--tensorboard", is_flag=True, help="Log to TensorBoard as well.")
def fit_policy(ctx: Context, **options: Any) -> None:
    """Fit the policy to the targets, robustly."""
    from harden.stages.fit_policy import fit_policy as stage

    done = stage(ctx.config, ctx.place, device=ctx.device, report=ctx.report, **options)
    click.echo(
        f"fitted the policy: {done.steps} steps at epsilon {done.epsilon:g} ({done.epsilon_from}), "
        f"KL {done.kl[0]:.4f} + {done.kl[1]:.4f}, robust KL {done.kl_robust[0]:.4f} + {done.kl_robust[1]:.4f} "
        f"-> {ctx.place.policy}"
    )


@main.command()
@stage_options
@click.option("--policy", "policy_dir", type=_FOLDER, default=None, help="Policy folder.")
@click.option("--attack", "attacks", default="mc,mr", help="Names, with commas, or all; natural always runs.")
@click.option("--epsilon", type=float, default=None, help="Radius, raw observation units.")
@click.option("--attack-steps", type=int, default=None, help="Gradient steps from each start.")
@click.option("--restarts", type=int, default=None, help="Random starts a state.")
@click.option("--norm", type=click.Choice(["linf", "l2"]), default=None)
@click.option("--action", type=click.Choice(["mean", "sample"]), default=None)
@click.option("--episodes", "eval_episodes", type=int, default=None, help="Episodes an attack.")
@click.option("--json", "json_path", type=_FOLDER, default=None, help="Write the evaluation there.")
def evaluate(ctx: Context, policy_dir: Path | None, attacks: str, json_path: Path | None) -> None:
    """Try a policy, natural and under attack."""
    from harden.evaluation.attacked import parse_attacks, table
    from harden.stages.evaluate import evaluate as stage

    out = json_path or (ctx.place.evaluation if policy_dir is None else None)
    chosen = parse_attacks(attacks)
    folder = policy_dir or ctx.place.policy
    result = stage(ctx.config, folder, chosen, device=ctx.device, out=out, report=ctx.report)
    click.echo(table(result["results"], result["cost_limit"]))
    if out is not None:
        click.echo(f"-> {out}")


@main.command()
@stage_options
@click.option("--env-steps", type=int, default=None, help="Steps of simulation in all.")
@click.option("--variant", default=None, help="One of: harden list variants.")
@click.option("--init", type=_FOLDER, default=None, help="Policy to start from.")
@click.option("--resume", is_flag=True, help="Go on from the last refresh stored.")
@click.option("--overwrite", is_flag=True, help="Discard an earlier run and its data.")
@click.option("--tensorboard", is_flag=True, help="Log to TensorBoard as well.")
def train(ctx: Context, **options: Any) -> None:
    """Collect, fit critics, E-step, fit policy, over and over (Algorithm 2)."""
    from harden.stages.train import train as stage

    done = stage(ctx.config, ctx.place, device=ctx.device, report=ctx.report, **options)
    last = done.history[-1]
    click.echo(
        f"trained {ctx.config.variant}: {last['env_steps']:,.0f} steps, {last['seconds']:.0f} s, reward "
        f"{last['reward']:.1f}, cost {last['cost']:.2f} in the last refresh, {last['cumulative_cost']:,.0f} "
        f"cost in all -> {done.policy}"
    )


@main.command()
@stage_options
def status(ctx: Context) -> None:
    """Say for each stage whether its result is done, stale or missing, and why."""
    from harden.pipeline import status as stages

    for row in stages(ctx.config, ctx.place):
        click.echo(f"{row.stage:<12} {row.status:<8} {row.why}")


@main.command()
@click.argument("evaluations", nargs=-1, required=True, type=_FOLDER)
@click.option("--curve", "curves", multiple=True, type=_FOLDER, help="Learning curve CSV; repeatable.")
@click.option("--out", type=_FOLDER, default=Path("report.html"), help="The page.")
def report(evaluations: tuple[Path, ...], curves: tuple[Path, ...], out: Path) -> None:
    """Put evaluation files side by side in one self-contained page."""
    from harden.evaluation.report import load_curve, load_evaluation, write_report

    tables = [(path.stem, load_evaluation(path)) for path in evaluations]
    write_report(out, tables, [(path.parent.name, load_curve(path)) for path in curves])
    click.echo(f"-> {out}")


@main.command("list")
@click.argument("what", type=click.Choice(["tasks", "attacks", "variants"]))
def list_names(what: str) -> None:
    """List what can be named, one a line."""
    from harden.attacks import ATTACKS
    from harden.tasks import TASKS
    from harden.variants import VARIANTS

    if what == "tasks":
        for task in TASKS.values():
            click.echo(
                f"{task.name:<16} {task.env_id}, horizon {task.horizon}, cost limit {task.cost_limit:g}, "
                f"epsilon {task.epsilon:g}"
            )
    else:
        rows: Any = [("natural", "no attack")] if what == "attacks" else []
        table: Any = ATTACKS if what == "attacks" else VARIANTS
        for name, summary in [*rows, *((row.name, row.summary) for row in table.values())]:
            click.echo(f"{name:<16} {summary}")


@main.command()
@click.option("--out", type=_FOLDER, default=Path("pipelines"), help="Folder to write into.")
def init(out: Path) -> None:
    """Write the shipped pipelines into a folder."""
    from harden.config import PRESETS
    from harden.files import make_folder, storage_errors

    make_folder(out)
    for source in sorted(PRESETS.glob("*.toml")):
        there = out / source.name
        if there.exists():
            raise InputError(f"{there} is there already", "remove it, or name another folder with --out")
    with storage_errors(out):
        for source in sorted(PRESETS.glob("*.toml")):
            shutil.copyfile(source, out / source.name)
            click.echo(f"-> {out / source.name}")


@main.group()
def data() -> None:
    """Look at data sets."""


@data.command()
@click.argument("path", type=_FOLDER)
def info(path: Path) -> None:
    """Say what a data set holds."""
    from harden.data import open_dataset

    found = open_dataset(path).info
    click.echo(
        f"{path}: {found.env_id}, horizon {found.horizon}, {found.transitions:,} transitions in "
        f"{found.episodes:,} episodes, {len(found.shards)} shards, reward {found.reward / found.episodes:.1f}, "
        f"cost {found.cost / found.episodes:.2f} an episode"
    )


@data.command()
@click.argument("path", type=_FOLDER)
def verify(path: Path) -> None:
    """Read every byte of a data set and compare it with its checksums."""
    from harden.data import open_dataset

    problems = open_dataset(path).verify()
    for problem in problems:
        click.echo(problem)
    if problems:
        raise InputError(f"{path} has {len(problems)} problems", "collect the damaged shards' episodes again")
    click.echo(f"{path} is whole")


if __name__ == "__main__":
    main()
