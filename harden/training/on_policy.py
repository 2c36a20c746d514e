"""The refreshes of an on-policy variant: collect, improve the policy, fit the attackers' critics, store."""

from __future__ import annotations

import time
from typing import Any

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset, DatasetWriter
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.method.critic_step import critic_step
from harden.method.learner import Learner
from harden.method.ppol import improve
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.training.refresh import History, collect_refresh, progress_row, write_curve
from harden.training.replay import check_finite, look_ahead
from harden.training.workspace import Workspace, commit, which_policy


def require_no_job(config: PipelineConfig, tensorboard: bool) -> None:
    """Refuse what only a Lightning job has: TensorBoard's events.

    Raises:
        InputError: they were asked for.
    """
    if tensorboard:
        raise InputError(
            f"variant {config.variant} has no fit that logs to TensorBoard",
            "it writes learning_curve.csv: leave --tensorboard out",
        )


def train_on_policy(
    config: PipelineConfig,
    place: Workspace,
    learner: Learner,
    history: History,
    writer: DatasetWriter,
    envs: VectorEnv,
    report: Reporter,
    also: dict[str, Any],
) -> None:
    """Do the refreshes that are left, each stored in one commit.

    The state-action critics, which only attackers need, learn from the replay for the policy as it is now, by
    the same updates as those of the off-policy variants.

    Args:
        config, place: the pipeline and its folders.
        learner, history: where the run is; changed in place.
        writer, envs: the data set and the simulation.
        report: where progress is said.
        also: what is stored with every refresh besides.

    Raises:
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithms 4 and 5.
    """
    train = config.train
    for _ in range(len(history), config.refreshes):
        began = time.monotonic()
        if history:
            learner.advance(refresh=1)
        shard = collect_refresh(config, learner, history, writer, envs, report)
        collected = time.monotonic()
        parent, epsilon = module_digest(learner.policy), scheduled(config, learner.counters.refresh).epsilon
        dataset = Dataset(place.data)
        fresh = dataset.recent(shard.transitions)
        done = improve(learner, fresh, config, shard.cost / shard.episodes, epsilon)
        replay = look_ahead(dataset.recent(config.critics.replay), config, learner.device)
        with report.track(f"refresh {len(history) + 1}", train.rounds, "rounds") as track:
            for rounds in range(train.rounds):
                for _ in range(train.critic_steps):
                    critic_step(learner, replay, config, epsilon)
                track(rounds + 1)
        learner.finish_round()
        check_finite(learner, done.loss + done.value_loss + done.cost_value_loss)
        seconds = collected - began, time.monotonic() - collected
        front = progress_row(config, learner, history, writer, shard, *seconds)
        history.append(front | done._asdict())
        about = {
            "history": history,
            "data_digest": writer.info.digest,
            "parent": parent,
            "kept": which_policy(config),
        }
        commit(config, place, learner, about | also)
        write_curve(place.run / "learning_curve.csv", history)
        report.say(_line(history[-1], config.refreshes))


def _line(row: dict[str, float], refreshes: int) -> str:
    return (
        f"refresh {row['refresh']:.0f}/{refreshes}  {row['env_steps']:,.0f} steps  {row['seconds']:.0f} s  "
        f"reward {row['reward']:.1f}  cost {row['cost']:.1f}  epsilon {row['epsilon']:.4f}  "
        f"lam {row['lam']:.2f}  KL {row['kl']:.4f}  {row['actor_steps']:.0f} steps of the actor"
    )
