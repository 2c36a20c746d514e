"""The stages, and what can be named: parse, call the stage, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harden.cli.main import FOLDER, Context, Shared, main, pass_shared, policy_options, stage_options
from harden.errors import InputError, Interrupted

attacked_collection = click.option(
    "--allow-attacked-collection", is_flag=True, help="Let the policy be attacked while it acts."
)


@main.command()
@stage_options
@policy_options
@click.option("--episodes", type=int, help="Whole episodes to collect.")
@click.option(
    "--behaviour",
    type=click.Choice(["random", "policy-mean", "policy-sample", "policy-noise", "mc"]),
    help="Who acts, and how.",
)
@attacked_collection
@click.option(
    "--policy",
    "policy_dir",
    type=FOLDER,
    help="Policy that acts: a folder, a policy file, or module:function.",
)
@click.option("--out", type=FOLDER, help="Data set folder.")
def collect(ctx: Context, **options: Any) -> None:
    """Collect episodes and append them to the data set."""
    from harden.stages import collect as stage

    shard, seconds = ctx.run(stage.collect, ctx.workspace, **options)
    click.echo(
        f"collected {shard.transitions:,} transitions in {shard.episodes} episodes ({shard.behaviour}), "
        f"{shard.transitions / seconds:,.0f} steps/s, reward {shard.reward / shard.episodes:.1f}, "
        f"cost {shard.cost / shard.episodes:.2f} an episode -> {options['out'] or ctx.workspace.data}"
    )


@main.command("fit-critics")
@stage_options
@policy_options
@click.option("--steps", type=int, help="Gradient steps.")
@click.option("--data", type=FOLDER, help="Data set.")
@click.option("--policy", "policy_dir", type=FOLDER, help="Policy to fit for, as for collect.")
@click.option("--out", type=FOLDER, help="New folder for a copy of the critics.")
def fit_critics(ctx: Context, **options: Any) -> None:
    """Fit Q_r and Q_c to the stored transitions."""
    from harden.stages import fit_critics as stage

    done = ctx.run(stage.fit_critics, ctx.workspace, **options)
    click.echo(f"fitted the critics: {done.steps} steps, loss {done.loss:.4g} -> {ctx.workspace.critics}")
    if options["policy_dir"] is not None:
        click.echo(f"the policy with them -> {ctx.workspace.policy}")
    _echo_copy(options["out"])


@main.command("e-step")
@stage_options
@policy_options
@click.option("--states", type=int, help="States to solve for.")
@click.option("--particles", type=int, help="Actions a state.")
@click.option("--data", type=FOLDER, help="Data set.")
@click.option("--policy", "policy_dir", type=FOLDER, help="Policy that particles are drawn from.")
@click.option("--critics", "critics_dir", type=FOLDER, help="Critics that judge them.")
@click.option("--out", type=FOLDER, help="Targets file.")
def e_step(ctx: Context, **options: Any) -> None:
    """Make the weighted particles q* that the policy is fitted to."""
    from harden.stages import e_step as stage

    done = ctx.run(stage.e_step, ctx.workspace, **options)
    click.echo(
        f"{done.status}: eta {done.eta:.4g} (exact {done.eta_exact:.4g}), lam {done.lam:.4g} "
        f"(exact {done.lam_exact:.4g}), expected cost {done.expected_cost:.4g} "
        f"against kappa {done.kappa:.4g} -> {options['out'] or ctx.workspace.targets}"
    )
    if done.status == "infeasible":
        click.echo(
            "warning: no weights near the policy meet kappa, so q* costs as little as it may. Fit the policy "
            "to it and repeat collect, fit-critics, e-step and fit-policy. Where the cost stays: allow "
            "larger steps (by_hand.kl_estep), a higher lam (estep.lam_max, adversary.lam_max), or more cost"
        )
    if not done.converged:
        click.echo("warning: the dual's search ended before estep.tolerance: check the critics' values")


@main.command("fit-policy")
@stage_options
@policy_options
@click.option("--steps", type=int, help="Gradient steps.")
@click.option("--targets", "targets_path", type=FOLDER, help="Targets file.")
@click.option("--policy", "policy_dir", type=FOLDER, help="Policy to fit.")
@click.option("--critics", "critics_dir", type=FOLDER, help="Critics that the adversary climbs.")
@click.option("--tensorboard", is_flag=True, help="Log to TensorBoard as well.")
@click.option("--clone", is_flag=True, help="Instead: a new policy from the data set's actions alone.")
@click.option("--data", type=FOLDER, help="With --clone: data set.")
@click.option("--out", type=FOLDER, help="New folder for a copy of the policy; with --clone: its folder.")
@click.option("--overwrite", is_flag=True, help="With --clone: replace a policy that is there.")
def fit_policy(ctx: Context, clone: bool, **options: Any) -> None:
    """Fit the policy to the targets, robustly; or clone the policy behind stored logs."""
    options = _that_apply(clone, options)
    if clone:
        _clone(ctx, options)
        return
    from harden.stages import fit_policy as stage

    done = ctx.run(stage.fit_policy, ctx.workspace, **options)
    click.echo(
        f"fitted the policy: {done.steps} steps at epsilon {done.epsilon:g}, "
        f"KL {done.kl[0]:.4f} + {done.kl[1]:.4f}, "
        f"robust KL {done.kl_robust[0]:.4f} + {done.kl_robust[1]:.4f} -> {ctx.workspace.policy}"
    )
    _echo_copy(options["out"])


def _that_apply(clone: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of fit-policy that apply with or without --clone; or refuse the others."""
    of_clone, of_fit = {"data", "overwrite"}, {"targets_path", "policy_dir", "critics_dir", "tensorboard"}
    if clone:
        options.pop("reading")
    for name in of_fit if clone else of_clone:
        if options.pop(name):
            why = "can't be had with --clone" if clone else "is for --clone alone"
            raise InputError(f"--{name.removesuffix('_dir').removesuffix('_path')} {why}", "leave it out")
    return options


def _echo_copy(out: Path | None) -> None:
    if out is not None:
        click.echo(f"-> {out}")


def _clone(ctx: Context, options: dict[str, Any]) -> None:
    from harden.stages import fit_policy as stage

    done = ctx.run(stage.clone, ctx.workspace, **options)
    own, constant = done.report["held_out"], done.report["constant"]
    click.echo(
        f"cloned: {done.steps} steps; on {done.report['episodes']['held_out']} held-out episodes likelihood "
        f"{own['log_likelihood']:.3f} nats (best constant {constant['log_likelihood']:.3f}), action error "
        f"{own['action_error']:.3f} ({constant['action_error']:.3f}) -> {done.folder}"
    )


@main.command()
@stage_options
@policy_options
@click.option("--env-steps", type=int, help="Steps of simulation in all; refreshes are whole.")
@click.option("--variant", help="Variant of the method, one of: harden list variants.")
@click.option("--init", type=FOLDER, help="Policy to start from, as for collect.")
@click.option("--resume", is_flag=True, help="Go on from the last refresh stored.")
@click.option("--overwrite", is_flag=True, help="Discard an earlier run and its data.")
@click.option("--tensorboard", is_flag=True, help="Log to TensorBoard as well.")
@click.option("--offline", is_flag=True, default=None, help="Learn from stored data alone, collect nothing.")
@click.option("--data", type=FOLDER, help="With --offline: data set.")
@attacked_collection
def train(ctx: Context, **options: Any) -> None:
    """Collect, fit critics, E-step, fit policy, over and over (Algorithm 2)."""
    from harden.stages import train as stage

    try:
        done = ctx.run(stage.train, ctx.workspace, **options)
    except Interrupted as error:
        begun = ctx.workspace.state.is_file()
        on = "go on from the last refresh: the same command with --resume, without --overwrite and --init"
        raise type(error)(error.message, on if begun else "nothing is stored yet: run it again") from None
    last = done.history[-1]
    if ctx.config.train.offline:
        result = f" offline: {last['refresh']:.0f} refreshes, {last['seconds']:.0f} s; nothing was simulated"
    else:
        result = (
            f": {last['env_steps']:,.0f} steps, {last['seconds']:.0f} s, reward {last['reward']:.1f}, cost "
            f"{last['cost']:.2f} in the last refresh, {last['cumulative_cost']:,.0f} cost in all"
        )
    click.echo(f"trained {ctx.config.variant}{result} -> {done.policy}")
    for warning in done.warnings:
        click.echo(f"warning: {warning}")


@main.command()
@stage_options
@click.option("--variant", help="Variant, as for train.")
def status(ctx: Context) -> None:
    """Say for each stage whether its result is done, stale or missing, and why."""
    from harden.stages.ready import Ready
    from harden.stages.status import status as stages

    ready = Ready(lambda: stages(ctx.config, ctx.workspace), [ctx.workspace.data, ctx.workspace.run], [])
    for row in ctx.work(ready):
        click.echo(f"{row.stage:<12} {row.status:<9} {row.why}")


@main.command("list")
@click.argument("what", type=click.Choice(["tasks", "attacks", "variants", "keys"]))
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
    elif what == "keys":
        from harden.config.pipeline import keys

        rows = keys()
    else:
        from harden.config.attacks import NAMES

        rows = NAMES
    for name, summary in rows.items():
        click.echo(f"{name:<{32 if what == 'keys' else 16}} {summary}")


@main.command()
@click.option(
    "--env", metavar="MODULE:CLASS", help="Write one for this environment, which is asked what it is."
)
@click.option("--python", default="", help="With --env: the Python that simulates.")
@click.option(
    "--set", "assignments", multiple=True, metavar="task.KEY=VALUE", help="With --env: a key of its task."
)
@click.option("--out", type=FOLDER, default=Path("pipelines"), help="Folder to write into [pipelines].")
@pass_shared
def init(shared: Shared, env: str | None, python: str, assignments: tuple[str, ...], out: Path) -> None:
    """Write the shipped pipelines into a folder, or one for an environment of your own."""
    from harden.config.file import PRESETS
    from harden.stages.init import own_pipeline
    from harden.storage.files import make_folder, require_writable, storage_errors

    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(PRESETS.glob("*.toml"))}
    begun = None
    if env is not None:
        begun = own_pipeline(env, python, assignments)
        texts = {begun.name: begun.text}
    elif python or assignments:
        raise InputError("--python and --set are for --env alone", "name the environment, as module:Class")
    copies = {out / f"{name}.toml": text for name, text in texts.items()}
    with storage_errors(out):
        for there in copies:
            if there.exists():
                raise InputError(f"{there} is there already", "remove it, or name another folder with --out")
            require_writable(there)
    for line in begun.found if begun else ():
        click.echo(line)
    shared.end_dry_run(*copies)
    make_folder(out)
    with storage_errors(out):
        for there, text in copies.items():
            there.write_text(text, encoding="utf-8")
            click.echo(f"-> {there}")
    if begun and begun.undecided:
        click.echo(f"to decide, at DECIDE in that file: {', '.join(begun.undecided)}")
