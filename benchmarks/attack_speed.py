"""How fast an evaluation attacks: all episodes in lockstep, beside a loop over one state at a time.

python benchmarks/attack_speed.py --json benchmarks/results/attack_speed.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.config.tasks import TASKS
from harden.envs.rollout import Acted, rollout
from harden.envs.vector import VectorEnv
from harden.nets.saved import LoadedPolicy, load_policy
from harden.seeds import episode_seeds
from harden.storage.files import write_json
from harden.training.workspace import versions

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "checkpoints/released/ball-circle/cvpo"
EPSILON, STEPS, EPISODES, ONE_BY_ONE = 0.05, 20, 50, 200


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what work returns, its wall time and its CPU time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = work()
    return done, time.perf_counter() - wall, time.process_time() - cpu


def lockstep(victim: LoadedPolicy, episodes: int) -> dict[str, Any]:
    """Evaluate under mc, simulation in this process, and tell the attack's time from the rest."""
    spent, states = [0.0, 0.0], []
    draw = torch.Generator().manual_seed(0)

    def act(obs: Tensor, slots: Tensor) -> Acted:
        strength = Strength(STEPS, 1)
        attack = lambda: perturb(  # noqa: E731
            ATTACKS["mc"], victim.policy, victim.critics, obs, EPSILON, strength, draw
        )
        adv, *seconds = timed(attack)
        spent[0], spent[1] = spent[0] + seconds[0], spent[1] + seconds[1]
        states.append(obs)
        with torch.no_grad():
            return Acted(victim.policy.mean(adv), adv)

    with VectorEnv(TASKS["ball-circle"], episodes, workers=0) as envs:
        seeds = episode_seeds(0, "evaluate", 0, episodes).tolist()
        _, wall, cpu = timed(lambda: rollout(envs, act, seeds))
    whole = torch.cat(states)
    return {
        "states": len(whole),
        "seconds": {"all": wall, "attack": spent[0]},
        "cpu_seconds": {"all": cpu, "attack": spent[1]},
        "obs": whole,
    }


def one_by_one(victim: LoadedPolicy, obs: Tensor) -> tuple[float, float]:
    """Attack one state after another as the authors' evaluator does: Adam, its backward into all weights.

    Source: Algorithm 3 as the ancestors implement it, the sign mended, without a stop rule: equal steps.
    """
    assert victim.critics is not None
    critics = victim.critics

    def loop() -> None:
        for state in obs.split(1):
            delta = torch.zeros_like(state, requires_grad=True)
            optimizer = torch.optim.Adam([delta], lr=0.2)
            for _ in range(STEPS):
                optimizer.zero_grad()
                (-critics.q_cost(state, victim.policy.mean(state + delta)).mean()).backward()
                optimizer.step()
                with torch.no_grad():
                    delta.clamp_(-EPSILON, EPSILON)

    _, wall, cpu = timed(loop)
    return wall / len(obs), cpu / len(obs)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--one-by-one", type=int, default=ONE_BY_ONE, help="states attacked alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    victim = load_policy(POLICY)
    lockstep(victim, 2)  # what the first calls compile and allocate is nobody's speed
    found = lockstep(victim, options.episodes)
    obs = found.pop("obs")
    alone, alone_cpu = one_by_one(victim, obs[:: max(1, len(obs) // options.one_by_one)])
    count = found["states"]
    result = {
        "policy": "checkpoints/released/ball-circle/cvpo",
        "attack": {"name": "mc", "steps": STEPS, "restarts": 1, "epsilon": EPSILON},
        "lockstep": found,
        "one_state": {"seconds": alone, "cpu_seconds": alone_cpu},
        "times_as_fast": {
            "wall": alone * count / found["seconds"]["attack"],
            "cpu": alone_cpu * count / found["cpu_seconds"]["attack"],
        },
        "versions": versions(),
    }
    write_json(options.json, result)
    print(json.dumps(result["times_as_fast"]), json.dumps(found))


if __name__ == "__main__":
    main()
