"""How a run ends: critics of the policy that is published, and what has to be known of it."""

from __future__ import annotations

from typing import Any

from harden.config.pipeline import PipelineConfig
from harden.method.critic_step import fit_critics
from harden.method.imagination import attacked_actor, imagine_attacks, imagined_cost, learn_world
from harden.method.schedules import scheduled
from harden.nets.saved import module_digest
from harden.progress import Reporter
from harden.seeds import generator
from harden.training.keeping import KEPT, collapse, reward_floor, try_actions, try_policy
from harden.training.loop import check_finite
from harden.training.record import RunRecord
from harden.training.run import Run
from harden.training.supply import RollOuts

# a multiplier this near to its ceiling is at it
_AT_CEILING = 0.99


def finish_run(run: Run, supply: RollOuts, report: Reporter) -> list[str]:
    """Fit critics to the policy that the run publishes, try it, and store what the run ends with; once.

    The critics have learned for the policy that learned with them, which is not the one that is published
    where that is an average. An evaluation attacks with the critics of the published policy.

    Args:
        run: its learner is changed in place.
        supply: what the critics learn from, and where policies are tried.
        report: where progress is reported.

    Returns:
        What has to be known of the run, one sentence each.
    """
    config, learner, record = run.config, run.learner, run.record
    if record.ended:
        return list((record.ending or {}).get("warnings", []))
    rows, replay, _, firsts = supply.load()
    floor = reward_floor(config, record)
    if learner.safest is not None:
        learner.average.load_state_dict(learner.safest.state_dict())
    learner.policy.load_state_dict(learner.average.state_dict())
    epsilon, steps = scheduled(config, None).epsilon, config.train.final_critic_steps
    if config.variant_row.imagined:
        learn_world(learner, rows, config)
        imagine_attacks(learner, firsts, rows.obs, config, epsilon)
    with report.track("critics of the published policy", steps, "steps") as track:
        losses = fit_critics(learner, replay, config, epsilon, steps, track)
    check_finite(learner, float(losses[-1]) if steps else 0.0)
    ending: dict[str, Any] = try_policy(config, learner.policy, supply.trials)
    if record.start and record.start["reward"] > 0:
        given = record.start["reward"]
        report.say(f"natural reward kept: {ending['reward'] / given:.0%} of the given policy's {given:.1f}")
    if config.train.offline:
        draw = generator(learner.device, learner.seed, "ending-attack")
        attacked = attacked_actor(learner, learner.policy, config, epsilon, draw)
        ending["attacked_cost"] = try_actions(config, attacked, supply.trials)["cost"]
        if refused := _unsafe(config, ending):
            ending["refused"] = refused
    elif config.variant_row.imagined:
        ending["attacked_cost"] = imagined_cost(learner, learner.policy, firsts, config, epsilon)
    warnings = [
        *_none_kept(config, record, floor),
        *filter(None, [collapse(config, record)]),
        *left_open(config, learner.counters.refresh, run.history),
        *_of_policy(config, ending, record.start),
    ]
    parent = module_digest(learner.policy)
    run.commit(parent=parent, ended=True, ending=ending | {"warnings": warnings})
    return warnings


def _unsafe(config: PipelineConfig, ending: dict[str, Any]) -> str:
    """Return why a policy that was never simulated is not published, "" where it may be."""
    limit = config.task_row.cost_limit
    found = [
        f"{ending[key]:.1f} {how}"
        for key, how in (("cost", "without an attack"), ("attacked_cost", "under attack"))
        if ending[key] > limit
    ]
    return f"the world model expects a cost of {' and '.join(found)}, the limit is {limit:g}" if found else ""


def _none_kept(config: PipelineConfig, record: RunRecord, floor: float | None) -> list[str]:
    if floor is None or record.safest is not None:
        return []
    assert record.start is not None
    least = f"{config.train.keep:.0%} of the {record.start['reward']:.1f} that training started from"
    return [f"no policy of this run kept {least} (train.keep): the last average is published"]


def _of_policy(config: PipelineConfig, end: dict[str, float], start: dict[str, float] | None) -> list[str]:
    """Return what the published policy's own episodes say against it."""
    found, limit = [], config.task_row.cost_limit
    if start and start["reward"] > 0 and end["reward"] < KEPT * start["reward"]:
        found.append(
            f"the policy earns {end['reward']:.1f} an episode, {end['reward'] / start['reward']:.0%} of the "
            f"{start['reward']:.1f} that training started from"
        )
    if end["cost"] > limit:
        found.append(
            f"the policy costs {end['cost']:.1f} an episode without an attack, above the limit of {limit:g}"
        )
    if end.get("attacked_cost", 0.0) > limit:
        found.append(
            f"under attack the world model expects a cost of {end['attacked_cost']:.1f} an episode, above "
            f"the limit of {limit:g}: harden evaluate --attack mc,mr says what it is"
        )
    return found


def left_open(config: PipelineConfig, refresh: int, history: list[dict[str, float]]) -> list[str]:
    """Return which constraints the last refresh left open, and how many searches of the dual ended early.

    Args:
        config: the pipeline.
        refresh: the last one, which the schedules are read at.
        history: the rows of the learning curve.
    """
    last, found = history[-1], []
    terms = scheduled(config, refresh)
    ceiling = last.get("lam_max", terms.lam_max)
    kappa = last.get("kappa", terms.kappa)
    if "q_cost" in last and last["q_cost"] > kappa and last["lam_exact"] >= _AT_CEILING * ceiling:
        found.append(
            f"the cost constraint is open: E[Q_c] is {last['q_cost']:.3g}, kappa {kappa:.3g}, and "
            f"lam is at its ceiling of {ceiling:.3g} (estep.lam_max, adversary.lam_max)"
        )
    for name, kl, ceiling, key in (
        ("beta", "kl", terms.mstep.beta_max, "beta_max"),
        ("beta_robust", "kl_robust", terms.mstep.kl_robust_weight, "kl_robust_weight"),
    ):
        for part in ("mean", "std"):
            bound, value = getattr(terms.mstep, f"{kl}_{part}"), last.get(f"{kl}_{part}", 0.0)
            if value > bound and last.get(f"{name}_{part}", 0.0) >= _AT_CEILING * ceiling > 0:
                found.append(
                    f"the KL mstep.{kl}_{part} is {value / bound:.1f} times its bound, and its multiplier is "
                    f"at mstep.{key} = {ceiling:g}"
                )
    early = sum((1.0 - row.get("converged", 1.0)) * config.train.rounds for row in history)
    if early >= 0.5:
        searches = len(history) * config.train.rounds
        found.append(f"{early:.0f} of {searches} searches of the dual ended before estep.tolerance")
    return found
