"""evaluate: a policy's reward and cost, natural and under attack."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.config.pipeline import PipelineConfig
from harden.data import data_files, open_dataset
from harden.envs.make import require_environment
from harden.envs.rollout import Progress
from harden.errors import InputError
from harden.evaluation.checks import check
from harden.evaluation.entries import Trial
from harden.evaluation.reading import FORMAT_VERSION
from harden.evaluation.reference import does_nothing
from harden.evaluation.threat import data_spread, threat_model
from harden.evaluation.trajectories import trajectories
from harden.evaluation.trials import Curve, Tried, evaluate_policy, plan
from harden.nets.saved import LoadedPolicy, policy_files
from harden.policies.foreign import policy_name
from harden.policies.open import acts_alike, open_policy
from harden.progress import Reporter
from harden.stages.attackers import prepare_attacks
from harden.stages.inputs import Inputs, optional
from harden.storage.files import is_among, require_apart, require_folder, require_writable, write_json
from harden.training.workspace import versions

Named = Path | str | Callable[..., Any]

_ABOUT_POLICY = ("variant", "policy_digest", "critics_digest", "offline", "format", "how")


def trial_of(config: PipelineConfig, loaded: LoadedPolicy) -> Trial:
    """Return how a configuration tries a policy."""
    options = config.evaluate
    strength: Strength | PaperStrength
    common: dict[str, Any] = {"norm": options.norm, "queries": options.queries}
    if options.attack_style == "paper":
        common |= {"stop_value": options.stop_value, "stop_move": options.stop_move}
        strength = PaperStrength(options.attack_steps or 200, options.paper_rate, **common)
    else:
        common |= {"step_share": options.step_share, "starts": options.starts}
        strength = Strength(options.attack_steps or 50, options.restarts, **common)
    return Trial(
        options.episodes,
        config.eval_epsilon,
        strength,
        options.action,
        config.seed,
        options.amad_share,
        gradients=loaded.policy.differentiable,
    )


def critics_folder(named: Path) -> Path:
    """Return where critics that are fitted to a policy are kept where the user names no folder."""
    if named.is_dir():
        return named / "independent"
    return Path("checkpoints/agents") / str(named).replace(":", "-").replace("/", "-")


def curve_points(trial: Trial, radius: float, attacks: Sequence[str]) -> list[Curve]:
    """Return the further settings of a report's curves.

    Args:
        trial: the evaluation's own setting.
        radius: the task's, which the verdict is on: cost is tried from 0 to 3 times of it.
        attacks: names of those that are run.

    Returns:
        Radii for `random` and `mc`, and for `mc` alone less effort: steps, restarts, or queries where there
        is no gradient.

    Raises:
        InputError: neither of the two is run.
    """
    if not {"random", "mc"} & set(attacks):
        raise InputError("curves follow random and mc, and neither is run", "name them: --attack random,mc")
    strength = trial.strength
    less: list[dict[str, Any]]
    if not trial.gradients:
        less = [{"queries": n} for n in (17, 65) if n < strength.queries]
    else:
        less = [{"steps": n} for n in (1, 5, 20) if n < strength.steps]
        if isinstance(strength, Strength):
            less += [{"restarts": n} for n in (1, 2) if n < strength.restarts]
    radii = [share * radius for share in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)]
    points = [Curve(("random", "mc"), trial._replace(epsilon=epsilon)) for epsilon in radii]
    return points + [Curve(("mc",), trial._replace(strength=strength._replace(**part))) for part in less]


@dataclass(frozen=True, kw_only=True)
class EvaluateInputs(Inputs):
    """What an evaluation begins with.

    Args:
        config, device: how to attack, and where it is computed.
        also: further configurations to attack by on the same episodes.
        curves: try more radii and less effort as well.
        named: the policy as the user names it; loaded: the policy.
        attacks: names, natural first.
        spread: of the data that epsilon is a share of, None where none are named.
        folder: where critics that are fitted here are kept.
        outs: JSON files to write the evaluation to.
    """

    config: PipelineConfig
    device: torch.device
    also: Sequence[PipelineConfig]
    curves: bool
    named: Named
    loaded: LoadedPolicy
    attacks: list[str]
    spread: dict[str, Any] | None
    folder: Path
    outs: Sequence[Path]

    @property
    def trials(self) -> list[Trial]:
        """How the policy is tried, the evaluation's own setting first."""
        return [trial_of(config, self.loaded) for config in (self.config, *self.also)]

    @property
    def points(self) -> list[Curve]:
        """The further settings of a report's curves."""
        radius = self.config.task_row.epsilon
        return curve_points(self.trials[0], radius, self.attacks) if self.curves else []


def open_evaluate(
    config: PipelineConfig,
    named: Named,
    attacks: list[str],
    *,
    device: torch.device,
    also: Sequence[PipelineConfig] = (),
    curves: bool = False,
    independent: Path | None = None,
    data: Path | None = None,
    outs: Sequence[Path] = (),
    page: Path | None = None,
    report: Reporter,
) -> EvaluateInputs:
    """Open and check what an evaluation needs, somebody's code among it, which is run.

    Args:
        config, attacks, device, also, curves, outs: as in EvaluateInputs.
        named: the policy: a folder, with the critics that it is attacked with, a TorchScript or ONNX file,
            module:function, or a function itself.
        independent: where critics fitted here are kept, beside the policy where not given.
        data: of whose spread epsilon is a share; of that over the natural episodes where not given.
        page: a report that the caller makes of it.

    Raises:
        MissingInputError: no such policy; DamagedFileError: not what its name promises; InputError: a
            policy or data of another task, curves of nothing, or a file that is the policy's, the data's or
            written twice; StorageError: one of the files can't be written.
    """
    path = Path(policy_name(named))
    for out in (*outs, *optional(page)):
        require_apart(out, *policy_files(path), *(data_files(data) if data else ()))
        require_writable(out)
    if page is not None and is_among(page, outs):
        raise InputError(f"{page} can't hold the evaluation and the report", "name two files")
    require_environment(config.task_row)
    spread = data_spread(open_dataset(data, config.task_row)) if data else None
    loaded = open_policy(named, config, report)
    folder = independent or critics_folder(path)
    inputs = EvaluateInputs(
        config=config,
        device=device,
        also=also,
        curves=curves,
        named=named,
        loaded=loaded,
        attacks=attacks,
        spread=spread,
        folder=folder,
        outs=outs,
        reads=tuple(file for file in optional(path, data) if file.exists()),
        writes=(*outs, *optional(page), *fitted_folders(loaded, attacks, folder)),
    )
    # curves of attacks that are not run are refused before any episode
    _ = inputs.points
    return inputs


def fitted_folders(loaded: LoadedPolicy, attacks: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return the folder for fitted critics where an attack asks for such, else nothing.

    Raises:
        StorageError: it can't be written.
    """
    asked = {ATTACKS[name].critics for name in attacks if name in ATTACKS}
    if not asked & {"independent", "learned"} and (loaded.critics is not None or "own" not in asked):
        return ()
    # a folder that is there may hold them already, and need not be written
    if not folder.is_dir():
        require_folder(folder)
    return (folder,)


def evaluate(inputs: EvaluateInputs, report: Reporter) -> dict[str, Any]:
    """Try a policy and write the evaluation file.

    A file that acts otherwise on the visited states than its weights, which were taken over, is tried itself.

    Returns:
        The evaluation, as in the file.
    """
    began = time.monotonic()
    config, task, path = inputs.config, inputs.config.task_row, Path(policy_name(inputs.named))
    tried, made = _run(inputs, report)
    if not acts_alike(inputs.named, inputs.loaded, config, tried.natural_obs, report):
        report.say(f"{path} acts otherwise than its weights on the visited states: trying the file itself")
        inputs = replace(inputs, loaded=open_policy(inputs.named, config, report, adopt=False))
        tried, made = _run(inputs, report)
    loaded, results, found = inputs.loaded, tried.entries, check(tried.entries, made)
    warnings = does_nothing(tried.reference)
    warnings += _without_gradients(inputs.attacks, loaded, config.evaluate.queries) + found.warnings
    evaluation = {
        "format_version": FORMAT_VERSION,
        "task": task.name,
        "env_id": task.env_id,
        "seed": config.seed,
        "episodes": config.evaluate.episodes,
        "cost_limit": task.cost_limit,
        "action": config.evaluate.action,
        "config": config.evaluate.model_dump(mode="json"),
        "device": str(inputs.device),
        "policy": {"path": str(path)} | {k: v for k, v in loaded.manifest.items() if k in _ABOUT_POLICY},
        "results": results,
        "reference": tried.reference,
        "warnings": warnings,
        "checks": found.made,
        "threat_model": threat_model(config, inputs.trials, tried, made.pop("critics"), inputs.spread),
        "trajectories": trajectories(task, results, tried.runs, task.epsilon),
        **made,
        "wall_time_s": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    for out in inputs.outs:
        write_json(out, evaluation)
    return evaluation


def _run(inputs: EvaluateInputs, report: Reporter) -> tuple[Tried, dict[str, Any]]:
    """Run the episodes; returns also what was made for the attacks."""
    config, attacks, trials, points = inputs.config, inputs.attacks, inputs.trials, inputs.points
    victim, made = prepare_attacks(
        config, inputs.loaded, attacks, trials, inputs.folder, device=inputs.device, report=report
    )
    steps_a_run = config.evaluate.episodes * config.task_row.horizon
    with report.track("evaluate", steps_a_run * len(plan(attacks, trials, points)), "steps") as track:

        def on_step(done: int, name: str, now: Progress) -> None:
            track(done * steps_a_run + now.steps, f"{name}: {now}")

        tried = evaluate_policy(
            victim,
            config.task_row,
            attacks,
            trials,
            curves=points,
            workers=config.collect.workers,
            device=inputs.device,
            on_step=on_step,
        )
    return tried, made


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
