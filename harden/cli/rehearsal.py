"""What `--dry-run` of a stage does: what the stage itself checks before its work, and nothing else.

One function a command, with the command's own arguments; each returns what would be read and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harden.cli.options import Context
from harden.errors import InputError


class Plan(NamedTuple):
    """What a command would do.

    Args:
        reads: files and folders that are there.
        writes: files and folders.
    """

    reads: Sequence[Path]
    writes: Sequence[Path]


def _learned(ctx: Context) -> list[Path]:
    return [ctx.place.state, ctx.place.critics, ctx.place.policy]


def _known(ctx: Context, policy_dir: Path | None = None, critics_dir: Path | None = None) -> list[Path]:
    """Return where a learner comes from, as far as it is there."""
    place = ctx.place
    paths = (place.state, critics_dir or place.critics, policy_dir or place.policy)
    return [path for path in paths if path.exists()]


def collect(
    ctx: Context, *, behaviour: str | None, policy_dir: Path | None, out: Path | None, **options: Any
) -> Plan:
    """Check what a collection needs, but for the kind of what is in the data set already."""
    from harden.data import open_dataset
    from harden.stages.collect import open_inputs
    from harden.storage.folders import require_folder

    config, place, folder = ctx.config, ctx.place, out or ctx.place.data
    allowed = options["allow_attacked_collection"]
    open_inputs(config, place, behaviour or config.behaviour, policy_dir, allowed)
    require_folder(folder)
    if (folder / "manifest.json").exists():
        open_dataset(folder, config.task_row)
    return Plan(_known(ctx, policy_dir), [folder])


def fit_critics(
    ctx: Context,
    *,
    data: Path | None,
    policy_dir: Path | None,
    out: Path | None,
    **options: Any,
) -> Plan:
    """Check what a fit of the critics needs."""
    from harden.stages.fit_critics import open_inputs

    dataset = open_inputs(ctx.config, ctx.place, ctx.device, data, policy_dir, out).dataset
    return Plan([dataset.path, *_known(ctx, policy_dir)], [*_learned(ctx), *([out] if out else ())])


def e_step(
    ctx: Context,
    *,
    data: Path | None,
    policy_dir: Path | None,
    critics_dir: Path | None,
    out: Path | None,
    **options: Any,
) -> Plan:
    """Check what an E-step needs."""
    from harden.stages.e_step import open_inputs

    opened = open_inputs(ctx.config, ctx.place, ctx.device, data, policy_dir, critics_dir, out)
    writes = [out or ctx.place.targets, *(_learned(ctx) if opened.about is not None else ())]
    return Plan([opened.dataset.path, *_known(ctx, policy_dir, critics_dir)], writes)


def fit_policy(ctx: Context, *, clone: bool, **options: Any) -> Plan:
    """Check what a fit of the policy needs, or a clone."""
    from harden.stages import clone as cloning
    from harden.stages.fit_policy import open_inputs

    given = of_fit_policy(clone, options)
    out = given["out"]
    if clone:
        opened = cloning.open_inputs(ctx.config, ctx.place, given["data"], out, given["overwrite"])
        return Plan([opened.dataset.path], [opened.folder])
    named = given["policy_dir"], given["critics_dir"]
    rest = *named, out
    path = open_inputs(ctx.config, ctx.place, ctx.device, given["targets_path"], *rest).path
    return Plan([path, *_known(ctx, *named)], [*_learned(ctx), *([out] if out else ())])


_OF_CLONE = ["steps", "data", "out", "overwrite"]
_OF_FIT_POLICY = ["steps", "targets_path", "policy_dir", "critics_dir", "tensorboard", "out"]


def of_fit_policy(clone: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of fit-policy that apply with or without --clone.

    Raises:
        InputError: others were given.
    """
    known = _OF_CLONE if clone else _OF_FIT_POLICY
    why = "can't be had with --clone" if clone else "is for --clone alone"
    for name, value in options.items():
        if name not in known and value:
            raise InputError(f"--{name.removesuffix('_dir').removesuffix('_path')} {why}", "leave it out")
    return {name: options[name] for name in known}


def train(ctx: Context, *, data: Path | None, **options: Any) -> Plan:
    """Check what training needs, in its own order."""
    from harden.envs.make import try_environment
    from harden.stages.train import require_allowed
    from harden.training.permissions import open_own
    from harden.training.ranges import require_ranges

    config, place = ctx.config, ctx.place
    require_allowed(config, data=data, **options)
    if config.train.offline:
        dataset = open_own(config, data or place.data)
        require_ranges(config, dataset.recent(config.imitation.rows), dataset.path)
        return Plan([dataset.path, *_run(ctx, dataset, **options)], [place.run])
    try_environment(config.task_row)
    return Plan(_run(ctx, None, **options), [place.data, place.run])


def _run(
    ctx: Context, stored: Any, *, init: Path | None, resume: bool, overwrite: bool, **options: Any
) -> list[Path]:
    """Check that a run can be taken up or begun, on stored data or none; returns what is read for it."""
    from harden.method.learner import new_learner
    from harden.nets.saved import load_policy
    from harden.storage.files import require_writable
    from harden.training.offline import require_own_data
    from harden.training.run import load_run, require_free

    config, place = ctx.config, ctx.place
    if resume:
        about = load_run(config, place, ctx.device)[1]
        if stored is not None:
            require_own_data(place, about, stored)
        return [place.state]
    new_learner(config, ctx.device, None if init is None else load_policy(init))
    if not overwrite:
        require_free(place, collects=not config.train.offline)
    require_writable(place.state)
    return [] if init is None else [init]


def evaluate(
    ctx: Context,
    *,
    named: Path | None,
    attacks: str,
    curves: bool,
    independent: Path | None,
    data: Path | None,
    json_path: Path | None,
    html: Path | None,
) -> Plan:
    """Check what an evaluation needs, somebody's code among it, which is run."""
    from harden.stages.evaluate import open_inputs

    chosen, data, outs = of_evaluate(ctx, named, attacks, data, json_path, html)
    policy = named or ctx.place.policy
    loaded = open_inputs(ctx.config, policy, chosen, ctx.also, curves, data, ctx.report).loaded
    reads = [path for path in (policy, data) if path is not None and path.exists()]
    fits = _fits(loaded, chosen, policy, independent)
    return Plan(reads, [*outs, *([html] if html else ()), *fits])


def of_evaluate(
    ctx: Context,
    named: Path | None,
    attacks: str,
    data: Path | None,
    json_path: Path | None,
    html: Path | None,
) -> tuple[list[str], Path | None, list[Path]]:
    """Return the attacks that evaluate makes, the data that it names, and the JSON files that it writes.

    Raises:
        StorageError: one of the files can't be written; InputError: an unknown attack, or a file that is the
            policy's, the data's or written twice.
    """
    from harden.data import data_files
    from harden.evaluation.entries import parse_attacks
    from harden.nets.saved import policy_files
    from harden.storage.files import is_among, require_apart, require_writable

    # of the run's own policy the run keeps one too, for `status`
    outs = [path for path in (json_path, ctx.place.evaluation if named is None else None) if path]
    if data is None and named is None and (ctx.place.data / "manifest.json").is_file():
        data = ctx.place.data
    read = [*policy_files(named or ctx.place.policy), *(data_files(data) if data else [])]
    for path in (*outs, *([html] if html else [])):
        require_apart(path, *read)
        require_writable(path)
    if html is not None and is_among(html, outs):
        raise InputError(f"{html} can't hold the evaluation and the report", "name two files")
    return parse_attacks(attacks), data, outs


def _fits(loaded: Any, attacks: Sequence[str], policy: Path, independent: Path | None) -> list[Path]:
    """Return where critics are kept that would be fitted, where the attacks ask for such."""
    from harden.attacks import ATTACKS
    from harden.stages.evaluate import critics_folder
    from harden.storage.folders import require_folder

    asked = {ATTACKS[name].critics for name in attacks if name in ATTACKS}
    if not asked & {"independent", "learned"} and (loaded.critics is not None or "own" not in asked):
        return []
    folder = independent or critics_folder(policy)
    # a folder that is there may hold them already, and need not be written
    if not folder.is_dir():
        require_folder(folder)
    return [folder]


def render(
    ctx: Context, *, named: Path | None, out: Path, attack: str, independent: Path | None, **options: Any
) -> Plan:
    """Check what a film needs."""
    from harden.stages.render import open_inputs

    policy = named or ctx.place.policy
    loaded = open_inputs(ctx.config, policy, out, attack, ctx.report)
    reads = [policy] if policy.exists() else []
    return Plan(reads, [out, *_fits(loaded, [attack], policy, independent)])


def status(ctx: Context) -> Plan:
    """Say where it looks."""
    return Plan([path for path in (ctx.place.data, ctx.place.run) if path.exists()], [])


def import_policy(
    ctx: Context, *, path: Path, out: Path, data: Path | None, kind: str | None, **options: Any
) -> Plan:
    """Check what an import needs, but for whether the policy is of the task."""
    from harden.data import open_dataset
    from harden.stages.clone import free_folder
    from harden.stages.import_policy import Reading, bounds_of, open_source
    from harden.storage.folders import require_folder

    free_folder(out, options["overwrite"])
    said = (options[name] for name in ("activation", "squash", "spread"))
    open_source(path, Reading(kind, *said), bounds_of(ctx.config), ctx.report)
    if data is not None:
        open_dataset(data, ctx.config.task_row)
    require_folder(out)
    return Plan([path, *([data] if data else ())], [out])
