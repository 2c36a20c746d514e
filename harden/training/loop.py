"""The training loop: Algorithm 2, online or on stored data; Algorithms 4 and 5 of the on-policy rivals."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric

from harden.config.pipeline import PipelineConfig
from harden.data.targets import TargetsHeader, write_targets
from harden.errors import DivergedError
from harden.method.adversary import adversary_share
from harden.method.critic_step import fit_critics, measure
from harden.method.e_step import describe_targets, e_step, estep_states, lam_unit
from harden.method.imagination import Imagined, imagine_attacks, is_due, learn_world
from harden.method.learner import Learner
from harden.method.m_step import MStepLoss, RobustMStep
from harden.method.ppo import improve
from harden.method.schedules import Scheduled, scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter, time_left
from harden.storage.files import digest_file, write_text
from harden.training.keeping import attacked_cost, collapse, consider, reward_floor, try_policy
from harden.training.record import Row
from harden.training.run import Run, which_policy
from harden.training.supply import Loaded, RollOuts
from harden.training.trainer import make_fabric, say_tensorboard
from harden.types import DualSolution, Targets


class _Learned(NamedTuple):
    """What a refresh's learning came to.

    Args:
        loss: of it, which is not finite where it diverged.
        row: columns of the learning curve.
        targets, header: of the last round; None for an on-policy variant.
    """

    loss: float
    row: Row
    targets: Targets | None = None
    header: TargetsHeader | None = None


def train(run: Run, supply: RollOuts, *, tensorboard: bool, report: Reporter) -> None:
    """Do the refreshes that are left, and store each of them in one commit.

    Args:
        run: its learner is changed in place.
        supply: brings the data.
        tensorboard: log the learning curve's rows to TensorBoard as well.
        report: where progress is reported.

    Raises:
        DivergedError: a loss became NaN or infinite; the last refresh stands.

    Source: Algorithm 2; Algorithms 4 and 5 for the on-policy variants.
    """
    learner, config, history = run.learner, run.config, run.history
    fabric = make_fabric(run.workspace.run, learner.device, tensorboard)
    m_step = None
    if not config.variant_row.on_policy:
        m_step = fabric.setup(RobustMStep(learner, config, scheduled(config, 0)), learner.policy_optimizer)
    if tensorboard:
        say_tensorboard(run.workspace.run, report)
    told = collapse(config, run.record)
    for _ in range(len(history), config.refreshes):
        began = time.monotonic()
        if history:
            learner.advance(refresh=1)
        supply.gather(history)
        gathered = time.monotonic()
        parent, loaded = module_digest(learner.policy), supply.load()
        if m_step is None:
            learned = _learn_on_policy(run, supply, loaded, report)
        else:
            learned = _learn(run, supply.digest, loaded, fabric, m_step, report)
        check_finite(learner, learned.loss)
        _keep(run, supply, loaded)
        row = supply.row(history, gathered - began, time.monotonic() - gathered) | learned.row
        history.append(row)
        _commit(run, supply, learned, parent)
        fabric.log_dict(row, step=len(history))
        if tensorboard and len(history) == 1:
            # what a table of runs compares; the values go on as curves of the same names
            fabric.logger.log_hyperparams(
                config.model_dump(mode="json"), {k: row[k] for k in ("reward", "cost")}
            )
        report.say(_line(history, config.refreshes))
        told, before = collapse(config, run.record), told
        if told and not before:
            report.say(f"warning: {told}")


def _learn(
    run: Run, data_digest: str, loaded: Loaded, fabric: Fabric, m_step: Any, report: Reporter
) -> _Learned:
    """Do the rounds of a refresh: critics, E-step and robust M-step, over and over.

    Source: Algorithm 2, lines 6 to 21.
    Deviation: `train.critic_steps` critic updates a round, where the paper has one; each of them and the
        E-step draws rows of its own, where the paper's round has one minibatch (line 4): the E-step's states
        are recent ones, the critics' from the whole replay.
    """
    learner, config, train = run.learner, run.config, run.config.train
    rows, replay, states, firsts = loaded
    measure(learner, rows, config)
    terms = scheduled(config, learner.counters.refresh, learner.first_cost)
    meter = _Meter()
    world: Row = {}
    if config.variant_row.imagined:
        learned = learn_world(learner, rows, config)
        world = {} if learned is None else learned._asdict()
        meter.add_chains(imagine_attacks(learner, firsts, rows.obs, config, terms.epsilon))
    if not run.history:
        fit_critics(learner, replay, config, terms.epsilon, run.record.warm_up or 0)
    m_step[0].begin(terms)
    with report.track(f"refresh {len(run.history) + 1}", train.rounds, "rounds") as track:
        for done in range(1, train.rounds + 1):
            if config.variant_row.imagined and is_due(learner, config):
                meter.add_chains(imagine_attacks(learner, firsts, rows.obs, config, terms.epsilon))
            fit_critics(learner, replay, config, terms.epsilon, train.critic_steps)
            targets, expected_cost = expectation(learner, states, train.states, config, terms)
            assert learner.dual is not None
            meter.add_e_step(learner.dual, expected_cost)
            if done == train.rounds:
                header = describe_targets(config, learner, learner.dual, expected_cost, data_digest, terms)
            for result in maximisation(fabric, m_step, targets, train.policy_steps):
                meter.add_m_step(result)
            learner.finish_round()
            track(done)
    lam_max = terms.lam_max * lam_unit(learner.critics, config)
    row = {"kappa": terms.kappa, "lam_max": lam_max, "adversary_share": 1.0}
    if config.variant_row.adversarial and terms.epsilon > 0:
        row["adversary_share"] = adversary_share(learner, targets.obs, config, terms.epsilon)
    row |= meter.means() | world
    return _Learned(row["loss"], row, Targets(*(column.cpu() for column in targets)), header)


def expectation(
    learner: Learner, window: torch.Tensor, states: int, config: PipelineConfig, terms: Scheduled
) -> tuple[Targets, torch.Tensor]:
    """Solve a round's E-step; the learner takes on its dual. Return the targets and the expected cost.

    Args:
        window: (N, obs_dim), where the E-step's states are drawn from.
        states: how many.

    Source: Algorithm 2, lines 9 to 15.
    """
    drawn = estep_states(learner, window, config, terms, states)
    targets, learner.dual, expected_cost = e_step(learner, drawn, config, terms)
    return targets, expected_cost


def maximisation(fabric: Fabric, m_step: Any, targets: Targets, steps: int) -> Iterator[MStepLoss]:
    """Fit the policy to a round's targets; yield each step's Lagrangian.

    Args:
        m_step: a RobustMStep and its optimizer, as Fabric set them up.

    Source: Algorithm 2, lines 16 to 21.
    """
    module, optimizer = m_step
    for iteration in range(steps):
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(module.training_step(targets, iteration))
        optimizer.step()
        yield module.result


def _learn_on_policy(run: Run, supply: RollOuts, loaded: Loaded, report: Reporter) -> _Learned:
    """Improve the policy by the refresh's roll-outs, and fit the critics that attackers need.

    The state-action critics learn from the replay for the policy as it is now, by the same updates as those
    of the off-policy variants.

    Source: Algorithms 4 and 5.
    """
    learner, config, train, shard = run.learner, run.config, run.config.train, supply.shard
    epsilon = scheduled(config, learner.counters.refresh).epsilon
    done = improve(learner, supply.fresh(), config, shard.cost / shard.episodes, epsilon)
    steps = train.rounds * train.critic_steps
    with report.track(f"refresh {len(run.history) + 1}", steps, "steps") as track:
        fit_critics(learner, loaded.replay, config, epsilon, steps, track)
    learner.finish_round()
    return _Learned(done.loss + done.value_loss + done.cost_value_loss, done._asdict())


def _keep(run: Run, supply: RollOuts, loaded: Loaded) -> None:
    """Where a floor of the reward is set, keep the averaged policy if it is the safest so far above it."""
    learner, config = run.learner, run.config
    floor = reward_floor(config, run.record)
    terms = scheduled(config, learner.counters.refresh, learner.first_cost)
    last = scheduled(config, None)
    ready = (terms.epsilon, terms.kappa) == (last.epsilon, last.kappa)
    if floor is None or not ready:
        return
    candidate = try_policy(config, learner.average, supply.trials)
    candidate |= {
        "refresh": len(run.history) + 1,
        "attacked_cost": attacked_cost(learner, loaded.firsts, loaded.states, config, terms),
    }
    run.record.safest = consider(learner, candidate, run.record.safest, floor)


def _commit(run: Run, supply: RollOuts, learned: _Learned, parent: str) -> None:
    """Store a refresh: the state is the commit point, and nothing broken gets that far."""
    digests = {"data_digest": supply.digest, "parent": parent}
    if learned.targets is not None and learned.header is not None:
        write_targets(run.workspace.targets, learned.targets, learned.header)
        digests["targets_digest"] = digest_file(run.workspace.targets)
    run.commit(**digests, kept=which_policy(run.config))
    write_curve(run.workspace.run / "learning_curve.csv", run.history)


def check_finite(learner: Learner, loss: float) -> None:
    """Stop before anything broken is stored.

    Raises:
        DivergedError: the loss or a weight is NaN or infinite.
    """
    weights = [*learner.policy.parameters(), *learner.critics.parameters()]
    if not (loss == loss and abs(loss) != float("inf")) or not all(bool(w.isfinite().all()) for w in weights):
        raise DivergedError(
            f"training diverged in round {learner.counters.round} (loss {loss})",
            "the last good state is kept: lower the learning rates and go on from it",
        )


class _Meter:
    """Gathers what the rounds of a refresh found, and asks the device for it once, at the end."""

    def __init__(self) -> None:
        self.m_steps: list[torch.Tensor] = []
        self.e_steps: list[torch.Tensor] = []
        self.chains: list[Imagined] = []

    def add_m_step(self, result: MStepLoss) -> None:
        parts = (result.loss.detach()[None], result.kl, result.kl_robust, result.beta, result.beta_robust)
        self.m_steps.append(torch.cat(parts))

    def add_e_step(self, dual: DualSolution, expected_cost: torch.Tensor) -> None:
        values = (dual.eta, dual.lam, dual.lam_exact, dual.feasible, expected_cost, dual.kl, dual.converged)
        self.e_steps.append(torch.stack([value.double() for value in values]))

    def add_chains(self, imagined: Imagined) -> None:
        self.chains.append(imagined)

    def means(self) -> Row:
        pairs = ("kl", "kl_robust", "beta", "beta_robust")
        names = ["loss", *(f"{name}_{part}" for name in pairs for part in ("mean", "std"))]
        steps = torch.stack(self.m_steps).mean(0).tolist()
        duals = torch.stack(self.e_steps).mean(0).tolist()
        dual_names = ("eta", "lam", "lam_exact", "feasible", "q_cost", "kl_estep", "converged")
        row = dict(zip(names, steps, strict=True)) | dict(zip(dual_names, duals, strict=True))
        if self.chains:
            means = torch.tensor(self.chains, dtype=torch.float64).mean(0).tolist()
            row |= dict(zip(Imagined._fields, means, strict=True))
        return row


def write_curve(path: Path, history: list[Row]) -> None:
    """Write a learning curve as CSV, one row a refresh."""
    text = io.StringIO()
    # the last row has every column; what an older program did not write is nan
    table = csv.DictWriter(text, list(history[-1]), restval="nan", lineterminator="\n")
    table.writeheader()
    table.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
    write_text(path, text.getvalue())


# columns of a refresh's row that a person is shown, with how
_SHOWN = {
    "env_steps": "{:,.0f} steps",
    "reward": "reward {:.1f}",
    "cost": "cost {:.1f}",
    "epsilon": "epsilon {:.4f}",
    "lam": "lam {:.2f}",
    "q_cost": "Q_c {:.2f}",
    "kl": "KL {:.4f}",
    "kl_mean": "KL {:.3f}",
    "kl_robust_mean": "robust KL {:.2f}",
    "adversary_share": "adversary {:.2f}",
    "imagined_cost": "imagined cost {:.1f}",
    "actor_steps": "{:.0f} steps of the actor",
}


def _line(history: list[Row], refreshes: int) -> str:
    *before, row = history[-6:]
    each = (row["seconds"] - (before[0]["seconds"] if before else 0.0)) / max(len(before), 1)
    left = time_left(each * (refreshes - len(history)))
    shown = [text.format(row[name]) for name, text in _SHOWN.items() if name in row]
    return "  ".join((f"refresh {row['refresh']:.0f}/{refreshes}", f"{row['seconds']:.0f} s, {left}", *shown))
