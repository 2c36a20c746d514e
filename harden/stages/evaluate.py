"""evaluate: a policy's reward and cost, natural and under attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.config.pipeline import PipelineConfig
from harden.data.dataset import open_dataset
from harden.data.manifest import data_files
from harden.envs.rollout import Simulate
from harden.envs.vector import VectorEnv, require_environment
from harden.errors import InputError
from harden.evaluation.card import CARD, has_card, write_card
from harden.evaluation.checks import check
from harden.evaluation.entries import Trial
from harden.evaluation.fitted_q import second_opinion
from harden.evaluation.radius import breaking_radii
from harden.evaluation.reading import FORMAT_VERSION
from harden.evaluation.reference import does_nothing
from harden.evaluation.threat import data_spread, threat_model
from harden.evaluation.trajectories import trajectories
from harden.evaluation.trials import Tried, evaluate_policy
from harden.nets.saved import LoadedPolicy, policy_files
from harden.policies.foreign import policy_name
from harden.policies.open import acts_alike, open_policy
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.stages.attackers import Attackers
from harden.stages.ready import Ready
from harden.storage.files import is_among, require_apart, require_folder, require_writable, write_json
from harden.training.checks import mean_episode
from harden.training.workspace import versions

_CPU = torch.device("cpu")
Named = Path | str | Callable[..., Any]

_OF_POLICY = ("variant", "policy_digest", "critics_digest", "offline", "format", "how")


def trial_of(config: PipelineConfig, gradients: bool) -> Trial:
    """Return how a configuration tries a policy, which gives gradients or does not."""
    options = config.evaluate
    strength: Strength | PaperStrength
    if options.attack_style == "paper":
        steps, rate, norm = options.attack_steps or 200, options.paper_rate, options.norm
        strength = PaperStrength(steps, rate, options.stop_value, options.stop_move, norm, options.queries)
    else:
        steps, starts = options.attack_steps or 50, options.starts
        strength = Strength(
            steps, options.restarts, options.step_share, options.norm, options.queries, starts, True
        )
    how = options.episodes, config.eval_epsilon, strength, options.action, config.seed, options.amad_share
    return Trial(*how, gradients)


def critics_folder(named: Path) -> Path:
    """Return where critics that are fitted to a policy are kept where the user names no folder."""
    if named.is_dir():
        return named / "independent"
    return Path("checkpoints/agents") / str(named).replace(":", "-").replace("/", "-")


def curve_points(trial: Trial, radius: float) -> list[tuple[str, Trial]]:
    """Return the further settings of a report's curves.

    Args:
        trial: the evaluation's own setting.
        radius: the task's, which the verdict is on: cost is tried from 0 to 3 times of it.

    Returns:
        Radii for `random` and `mc`, and for `mc` alone less effort: steps, restarts, or queries where there
        is no gradient.
    """
    strength = trial.strength
    less: list[dict[str, Any]]
    if not trial.gradients:
        less = [{"queries": n} for n in (17, 65) if n < strength.queries]
    else:
        less = [{"steps": n} for n in (1, 5, 20) if n < strength.steps]
        if isinstance(strength, Strength):
            less += [{"restarts": n} for n in (1, 2) if n < strength.restarts]
    radii = [trial._replace(epsilon=share * radius) for share in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)]
    efforts = [trial._replace(strength=strength._replace(**part)) for part in less]
    return [(name, at) for at in radii for name in ("random", "mc")] + [("mc", at) for at in efforts]


def evaluate(
    config: PipelineConfig,
    named: Named,
    attacks: list[str],
    *,
    reading: Reading = Reading(),  # noqa: B008
    also: Sequence[PipelineConfig] = (),
    curves: bool = False,
    breaking: Sequence[str] = (),
    independent: Path | None = None,
    data: Path | None = None,
    imagined: bool = False,
    outs: Sequence[Path] = (),
    run: Path | None = None,
    page: Path | None = None,
    device: torch.device = _CPU,
    report: Reporter = QUIET,
) -> Ready[dict[str, Any]]:
    """Try a policy and write the evaluation file; somebody's code is run when it is opened.

    A file that acts otherwise on the visited states than its weights, which were taken over, is tried itself.

    Args:
        named: the policy: a folder, with the critics that it is attacked with, a policy file,
            module:function, or a function itself.
        reading: what a policy file does not say of itself.
        attacks: names, natural first.
        also: further configurations to attack by on the same episodes.
        curves: try more radii and less effort as well.
        breaking: names of those attacks whose breaking radius is searched; natural and worst have none.
        independent: where critics fitted here are kept, beside the policy where not given.
        data: of whose spread epsilon is a share; of that over the natural episodes where not given.
        imagined: try the policy in a world model of `data`, and in no simulation; so it is tried in any case
            where the task has no environment and there are data.
        outs: JSON files to write the evaluation to; page: a report that the caller makes of it.
        run: the folder of the run whose own policy it is, where it is one's; its model card is made anew.

    Returns:
        The evaluation, as in the file.

    Raises:
        MissingInputError: no such policy; DamagedFileError: not what its name promises; InputError: a
            policy or data of another task, curves or a breaking radius of nothing, or a file that is the
            policy's, the data's or written twice; StorageError: one of the files can't be written.
    """
    path, task = Path(policy_name(named)), config.task_row
    for out in (*outs, page):
        if out is not None:
            require_apart(out, *policy_files(path), *(data_files(data) if data else ()))
            require_writable(out)
    if page is not None and is_among(page, outs):
        raise InputError(f"{page} can't hold the evaluation and the report", "name two files")
    if curves and not {"random", "mc"} & set(attacks):
        raise InputError("curves follow random and mc, and neither is run", "name them: --attack random,mc")
    searched = [name for name in breaking if name in ATTACKS]
    if breaking and not searched:
        raise InputError("a breaking radius is an attack's, and none is run", "name one: --attack mc")
    if searched and task.epsilon == 0:
        raise InputError(
            f"the radius of {task.name} is 0, and radii are searched in multiples of it",
            "give the task an epsilon",
        )
    imagined = imagined or (data is not None and not task.env_id)
    if not imagined:
        require_environment(task)
    elif data is None:
        raise InputError("--imagined tries a policy in a world model of logs", "name them with --data")
    logs = open_dataset(data, task) if data else None
    spread = data_spread(logs) if logs else None
    world_file = critics_folder(path) / "world.safetensors"
    if imagined:
        require_writable(world_file)
    opened = open_policy(named, config, report, reading)
    if not has_card(opened.manifest):
        run = None
    folder = independent or critics_folder(path)

    def attempt(
        loaded: LoadedPolicy, simulate: Simulate
    ) -> tuple[Tried, dict[str, Any], Callable[[], dict[str, Any]]]:
        """Run the episodes; returns also what was made for the attacks, and the search for their radii."""
        trials = [trial_of(each, loaded.policy.differentiable) for each in (config, *also)]
        used = data if imagined else None
        attackers = Attackers(config, loaded, folder, device, report, simulate, used)
        victim, made = attackers.prepare(attacks, trials)
        options: dict[str, Any] = {"simulate": simulate, "device": device, "report": report}
        points = curve_points(trials[0], task.epsilon) if curves else []
        tried = evaluate_policy(victim, task, attacks, trials, points=points, **options)

        def radii() -> dict[str, Any]:
            if not searched:
                return {}
            # of several efforts the weaker would only find a larger radius
            hardest = max(trials, key=lambda trial: trial.strength.steps * trial.strength.restarts)
            how = partial(attackers.at, victim), task, searched, hardest, tried
            return {"breaking_radius": breaking_radii(*how, **options)}

        return tried, made, radii

    def work() -> dict[str, Any]:
        began, loaded = time.monotonic(), opened
        simulate: Simulate = partial(VectorEnv, task, workers=config.collect.workers)
        about, logged = dict[str, Any](), None
        if imagined and logs is not None:
            from harden.training.logged import judging_world

            logged = judging_world(config, logs, world_file, report)
            simulate = partial(logged.envs, config, apart=True)
            about["horizon"] = task.horizon
            about["world_model"] = {
                "data": str(logs.path),
                "digest": logs.info.digest,
                "cost_rule": task.cost,
                "logged": mean_episode(logged.rows),
            } | logged.found
        tried, made, radii = attempt(loaded, simulate)
        if not acts_alike(named, loaded, config, tried.natural_obs, reading):
            report.say(f"{path} acts otherwise on visited states than its weights: trying the file itself")
            loaded = open_policy(named, config, report, reading, adopt=False)
            tried, made, radii = attempt(loaded, simulate)
        if logged is not None:
            about["world_model"]["fitted_q"] = second_opinion(config, loaded.policy, logged.rows, report)
        results, checked = tried.entries, check(tried.entries, made)
        warnings = does_nothing(tried.reference)
        warnings += _without_gradients(attacks, loaded, config.evaluate.queries) + checked.warnings
        kept = {key: value for key, value in loaded.manifest.items() if key in _OF_POLICY}
        evaluation = {
            "format_version": FORMAT_VERSION,
            "task": task.name,
            "env_id": task.env_id,
            "seed": config.seed,
            "episodes": config.evaluate.episodes,
            "cost_limit": task.cost_limit,
            "action": config.evaluate.action,
            "config": config.evaluate.model_dump(mode="json"),
            "device": str(device),
            "policy": {"path": str(path)} | kept,
            **about,
            "results": results,
            **radii(),
            "reference": tried.reference,
            "warnings": warnings,
            "checks": checked.made,
            "threat_model": threat_model(config, tried, made.pop("critics"), spread),
            "trajectories": trajectories(task, results, tried.runs, task.epsilon),
            **made,
            "wall_time_s": round(time.monotonic() - began, 1),
            "versions": versions(),
        }
        for out in outs:
            write_json(out, evaluation)
        if run is not None:
            write_card(run)
        return evaluation

    made_files = [*([world_file] if imagined else []), *([run / CARD] if run else [])]
    return Ready(work, [path, data], [*outs, page, *made_files, *fitted_folders(opened, attacks, folder)])


def fitted_folders(loaded: LoadedPolicy, attacks: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return the folder for fitted critics where an attack asks for such, else nothing.

    Raises:
        StorageError: it can't be written.
    """
    kinds = {ATTACKS[name].critics for name in attacks if name in ATTACKS}
    if not kinds & {"independent", "learned"} and (loaded.critics is not None or "own" not in kinds):
        return ()
    # a folder that is there may hold them already, and need not be written
    if not folder.is_dir():
        require_folder(folder)
    return (folder,)


def _without_gradients(attacks: Sequence[str], loaded: LoadedPolicy, queries: int) -> list[dict[str, Any]]:
    """Return the warning that attacks had to do without gradients, where they had."""
    names = [name for name in attacks if name in ATTACKS and ATTACKS[name].climbs]
    if loaded.policy.differentiable or not names:
        return []
    message = (
        f"the policy gives no gradients: {', '.join(names)} searched by values as black-box does "
        f"({queries} queries a state), which is weaker evidence"
    )
    return [{"check": "no-gradient", "attack": names[0], "epsilon": None, "message": message}]
