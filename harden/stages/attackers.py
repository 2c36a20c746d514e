"""What the attacks of an evaluation ask beside the policy: critics and adversaries, kept or made here."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS
from harden.config.pipeline import PipelineConfig, make_config
from harden.config.sections import PLAIN_ROLL_OUTS
from harden.data.dataset import open_dataset
from harden.envs.rollout import Simulate
from harden.envs.vector import VectorEnv
from harden.errors import MissingInputError
from harden.evaluation.adversaries import plan_adversary, search_adversary
from harden.evaluation.entries import Trial
from harden.evaluation.trials import Victim
from harden.nets import Critics
from harden.nets.saved import LoadedPolicy, load_critics, module_digest, save_critics, save_policy
from harden.policies.foreign import OpaquePolicy
from harden.progress import Reporter
from harden.seeds import derive
from harden.storage.files import require_folder
from harden.training.workspace import Workspace, describe

# critics, and what is known of how they were made
Made = tuple[Critics, dict[str, Any]]

# what is kept of an earlier way to fit is not taken for today's
_FITTED, _PLANNED = 2, 2
# one-step targets rank costs less well: their bootstrap is the noisy part (docs/experiments.md)
_N_STEP = 10
# what an evaluation says of critics that were fitted for it
_TOLD = ("cost_seen", "surrogate_error", "surrogate_share")


class Attackers:
    """Makes what attacks ask, once for each policy, seed and setting.

    Args:
        config: gives the task, the seed, the critics' settings and the sizes (`evaluate.independent_*`,
            `evaluate.learned_*`).
        loaded: the policy.
        folder: where fits are kept, one a policy, seed and setting.
        device, report: where it is computed, and how far it is.
        simulate: opens environments; the task's simulation where not given.
        logs: the data set that critics are fitted to, in the place of roll-outs of the policy.
    """

    def __init__(
        self,
        config: PipelineConfig,
        loaded: LoadedPolicy,
        folder: Path,
        device: torch.device,
        report: Reporter,
        simulate: Simulate | None = None,
        logs: Path | None = None,
    ) -> None:
        self.config, self.loaded, self.folder, self.logs = config, loaded, folder, logs
        self.simulate = simulate or partial(VectorEnv, config.task_row, workers=config.collect.workers)
        self.device, self.report = device, report

    def prepare(self, attacks: Sequence[str], trials: Sequence[Trial]) -> tuple[Victim, dict[str, Any]]:
        """Return the policy with all that the attacks ask, and what an evaluation says of it.

        Args:
            attacks: names; nothing is fitted or searched that none of them asks.
            trials: an adversary is found for each radius among them.

        Returns:
            The victim, and {"critics": {"own", ...}, "independent_critics", "learned", "critic_free"} as far
            as there is something to say.
        """
        rows = [ATTACKS[name] for name in attacks if name in ATTACKS]
        kinds, own = {row.critics for row in rows}, self.loaded.critics
        radii = sorted({trial.epsilon for trial in trials if trial.epsilon > 0})
        norm = trials[0].strength.norm
        victim = Victim(self.loaded.policy, own)
        made: dict[str, Any] = {"critics": {"own": None if own is None else "the policy's own"}}
        if own is None and "own" in kinds:
            critics, known = self.fitted("own")
            victim = victim._replace(critics=critics)
            facts = {key: known[key] for key in _TOLD if key in known}
            made["critics"] = {
                "own": "fitted here to " + ("the logs" if self.logs else "benign roll-outs of the policy")
            } | facts
        if "independent" in kinds:
            critics, known = self.fitted("independent")
            victim = victim._replace(independent=critics)
            facts = {key: known[key] for key in _TOLD if key in known}
            kept = {"folder": str(self.folder), "digest": module_digest(critics)}
            made["independent_critics"] = kept | facts
        if "learned" in kinds:
            planned = {radius: self._planned(radius, norm) for radius in radii}
            victim = victim._replace(learned={radius: critics for radius, (critics, _) in planned.items()})
            made["learned"] = [known["planned"] for _, known in planned.values()]
        if any(row.plays for row in rows):
            how = norm, self.device, self.report
            searched = {
                r: search_adversary(self.loaded.policy, self.config, self.simulate, r, *how) for r in radii
            }
            victim = victim._replace(adversaries={r: adversary for r, (adversary, _) in searched.items()})
            budget = self.config.evaluate.simulator_episodes
            made["critic_free"] = [
                {"epsilon": radius, "episodes": budget, "costs": costs, "cost_seen": max(costs)}
                for radius, (_, costs) in searched.items()
            ]
        return victim, made

    def at(self, victim: Victim, name: str, trial: Trial) -> Victim:
        """Return a prepared victim with what an attack asks at a trial's radius, made where it lacks that."""
        row, radius, norm = ATTACKS[name], trial.epsilon, trial.strength.norm
        if row.critics == "learned" and radius not in victim.learned:
            critics, _ = self._planned(radius, norm)
            return victim._replace(learned={**victim.learned, radius: critics})
        if row.plays and radius not in victim.adversaries:
            found, _ = search_adversary(
                self.loaded.policy, self.config, self.simulate, radius, norm, self.device, self.report
            )
            return victim._replace(adversaries={**victim.adversaries, radius: found})
        return victim

    def fitted(self, purpose: str) -> Made:
        """Return critics of the frozen policy, fitted to benign roll-outs of it, or those of an earlier call.

        Half of the episodes act by samples, half under random noise on the observations as well: a policy
        that is safe shows its critics no cost otherwise. Of somebody else's policy the episodes are its own,
        and the fit's next actions those of a policy of ours that is fitted to it first.

        Args:
            purpose: names the seed: critics for two purposes are independent of each other.

        Raises:
            InputError: too few episodes; DamagedFileError: what is kept there was altered; StorageError:
                nothing can be kept there.
        """
        fit, options = fit_config(self.config, self.loaded, purpose), self.config.evaluate
        episodes = options.independent_episodes
        more = [fit.train_epsilon, [episodes, options.independent_steps], fit.collect.envs]
        if isinstance(self.loaded.policy, OpaquePolicy):
            from harden.training.imitation import require_episodes

            named = f"evaluate.independent_episodes is {episodes}"
            require_episodes(episodes, f"{named}, and somebody else's policy is imitated first")
            more.append(_FITTED)
        if self.logs:
            more.append(open_dataset(self.logs, fit.task_row).info.digest)
            # where there is one, costs were once the logs' own all the same
            more += ["by rule"] * bool(fit.task_row.cost)
        return self._kept(key_of(fit, self.loaded, *more), lambda: self._fit(fit))

    def _kept(self, name: str, fit: Callable[[], Made]) -> Made:
        """Return the critics that a folder keeps, fitted first where it keeps none."""
        folder = self.folder / name
        try:
            return load_critics(folder)
        except MissingInputError:
            require_folder(folder.parent)
        self.report.say(f"fitting critics for the attacks -> {folder}")
        critics, known = fit()
        save_critics(folder, critics.cpu(), known)
        return load_critics(folder)

    def _fit(self, fit: PipelineConfig) -> Made:
        """Collect the episodes in a folder of their own, and return the critics that are fitted to them."""
        # they bring Lightning, which takes longer to import than an evaluation to begin
        from harden.stages.collect import append_episodes, collect
        from harden.stages.fit_critics import fit_critics
        from harden.stages.policy_files import distil

        policy, episodes, report = self.loaded.policy, fit.evaluate.independent_episodes, self.report
        parts = {"policy-sample": episodes - episodes // 2, "policy-noise": episodes // 2}
        parts = {} if self.logs else {behaviour: count for behaviour, count in parts.items() if count}
        with tempfile.TemporaryDirectory() as scratch:
            workspace, bare = Workspace.named("independent", Path(scratch)), Path(scratch) / "bare"
            facts: dict[str, Any] = {}
            data = self.logs or workspace.data
            if isinstance(policy, OpaquePolicy):
                digest, out = policy.digest(), workspace.data
                for behaviour, count in parts.items():
                    report.say(f"collecting {count} episodes of the policy under evaluation ({behaviour})")
                    radius = fit.train_epsilon
                    append_episodes(fit, out, policy, None, count, behaviour, radius, digest, report)
                rows = open_dataset(data, fit.task_row).recent(fit.imitation.rows)
                copy, how = distil(policy.source, fit, rows, data, torch.device("cpu"), report)
                facts = {"surrogate_error": how.error, "surrogate_share": how.share}
                save_policy(bare, copy, None, describe(fit))
            else:
                # without its critics, or the fit would go on from them
                save_policy(bare, policy, None, self.loaded.manifest)
                for behaviour, count in parts.items():
                    options: dict[str, Any] = {"episodes": count, "behaviour": behaviour}
                    collect(fit, workspace, policy_dir=bare, report=report, **options).work()
            steps = fit.evaluate.independent_steps
            fitted = fit_critics(
                fit, workspace, steps=steps, data=data, policy_dir=bare, device=self.device, report=report
            ).work()
            critics, known = load_critics(workspace.critics)
        # critics that have never seen a cost know of no danger
        return critics, known | facts | {"cost_seen": fitted.cost}

    def _planned(self, epsilon: float, norm: Any) -> Made:
        """Return the critics of an adversary trained against the policy: those kept, or trained now."""
        fit, options = fit_config(self.config, self.loaded, "learned"), self.config.evaluate
        rounds, episodes, steps = options.learned_rounds, options.learned_episodes, options.learned_steps

        def train() -> Made:
            adversary = plan_adversary(
                self.loaded.policy, fit, self.simulate, epsilon, norm, self.device, self.report
            )
            history = {
                "epsilon": epsilon,
                "episodes": (rounds + 1) * episodes,
                "steps": rounds * steps,
                "costs": adversary.costs,
                "cost_seen": adversary.seen,
                "best_round": adversary.best,
                "digest": module_digest(adversary.critics),
            }
            return adversary.critics, {"planned": history}

        key = key_of(fit, self.loaded, _PLANNED, epsilon, norm, [rounds, episodes, steps])
        return self._kept(f"learned-{key}", train)


def fit_config(config: PipelineConfig, loaded: LoadedPolicy, purpose: str) -> PipelineConfig:
    """Return the configuration of a fit: the pipeline's critics, beside the policy as it is.

    A seed of its own draws other episodes and other first weights than training did, also with equal seeds.

    Args:
        purpose: what the critics are for, which names that seed.
    """
    tree: dict[str, Any] = config.model_dump() | {"variant": "cvpo", "preset": "none"}
    tree["seed"] = derive(config.seed, purpose) % 2**32
    if not isinstance(loaded.policy, OpaquePolicy):
        given = loaded.policy.architecture
        networks = {name: given[name] for name in ("init_std", "min_std", "max_std")}
        tree["networks"] |= networks | {"policy_hidden": given["hidden"]}
    tree["critics"] |= {"n_step_reward": _N_STEP, "n_step_cost": _N_STEP}
    # the noise in half of the episodes: a training at a margin does not choose it
    tree["adversary"]["epsilon"] = config.task_row.epsilon
    # the policy as it is, without what training adds to explore
    tree["collect"] |= PLAIN_ROLL_OUTS
    return make_config(tree)


def key_of(config: PipelineConfig, loaded: LoadedPolicy, *more: Any) -> str:
    """Return what a fit to a policy depends on, as a folder's name.

    Args:
        config: the fit's own.
        more: what this kind of fit depends on beside policy, task, seed, critics and networks; plain values.
    """
    parts = [
        loaded.manifest.get("policy_digest") or module_digest(loaded.policy),
        # the row and not its name: a task of one's own keeps that when its radius changes
        *(config.task_row._replace(python="", timeout=0.0)._asdict(), config.seed),
        config.critics.model_dump(mode="json"),
        config.networks.model_dump(mode="json"),
        *more,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
