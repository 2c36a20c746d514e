"""The paper's own settings: Table 4 and B.3, and what is chosen where it prints nothing.

`--set preset=paper` puts them over a pipeline file; what `--set` names goes before them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from harden.config.sections import PLAIN_ROLL_OUTS


class PaperRow(NamedTuple):
    """A task's column of Table 4, right half (off-policy).

    Args:
        epochs: training epochs.
        replay: the table's "batch size", which can only be the replay's capacity (its minibatch is 300).
        particles, m_steps: K, M.
        kl_estep, kl_vanilla, kl_robust: delta, xi, xi-tilde.
        actor_rate: alpha_theta.
    """

    epochs: int
    replay: int
    particles: int
    m_steps: int
    kl_estep: float
    kl_vanilla: float
    kl_robust: float
    actor_rate: float


class OnPolicyRow(NamedTuple):
    """A task's column of Table 4, left half (on-policy).

    Args:
        epochs: training epochs.
        batch: steps of simulation an epoch.
        actor_steps: the policy's gradient steps an epoch.
        actor_rate: its learning rate.
    """

    epochs: int
    batch: int
    actor_steps: int
    actor_rate: float


_DRONE = PaperRow(700, 20_000, 32, 6, 0.01, 0.0008, 0.06, 1e-3)
TABLE_4: dict[str, PaperRow] = {
    "ball-circle": PaperRow(900, 50_000, 32, 6, 0.05, 0.02, 0.05, 2e-3),
    "car-circle": PaperRow(700, 80_000, 32, 15, 0.1, 0.01, 0.012, 2e-3),
    "drone-run": _DRONE,
    "drone-run-paper": _DRONE,
    "ant-run": PaperRow(600, 80_000, 64, 8, 0.1, 0.05, 0.06, 1e-3),
}
_DRONE_ON_POLICY = OnPolicyRow(250, 60_000, 80, 3e-4)
TABLE_4_ON_POLICY: dict[str, OnPolicyRow] = {
    "ball-circle": OnPolicyRow(300, 45_000, 80, 5e-4),
    "car-circle": OnPolicyRow(500, 45_000, 80, 3e-4),
    "drone-run": _DRONE_ON_POLICY,
    "drone-run-paper": _DRONE_ON_POLICY,
    "ant-run": OnPolicyRow(250, 60_000, 160, 5e-4),
}
MINIBATCH = 300
# B, roll-outs an epoch: not printed, the ancestors' 10
ROLLOUTS = 10


def paper_settings(task: str, horizon: int) -> dict[str, Any]:
    """Return the paper's configuration of a task, as the sections of a pipeline file.

    Source: Table 4 and B.3. Not printed, and taken from the public CVPO code: gamma 0.99, polyak 0.995, two
    reward critics (harden has one cost critic always), lam at most 20, a tenth of each KL threshold for the
    spread (Table 4 has one). Not printed and not to be found: T_s and T_i, the multipliers' rates and
    ceilings, the attack's steps in training, the spread at the start; they are ours.
    """
    row = TABLE_4[task]
    return {
        "networks": _networks() | {"reward_critics": 2},
        "critics": _critics(gamma=0.99, replay=row.replay),
        "estep": {
            "particles": row.particles,
            "kl_bound": row.kl_estep,
            "window": row.replay,
            "lam_max": 20.0,
            "limit_start": None,
            "limit_end": None,
        },
        "mstep": {
            "learning_rate": row.actor_rate,
            "learning_rate_end": None,
            "kl_mean": row.kl_vanilla,
            "kl_std": row.kl_vanilla / 10,
            "kl_robust_mean": row.kl_robust,
            "kl_robust_std": row.kl_robust / 10,
            "robust_weight": 1.0,
        },
        "adversary": {"epsilon": None, "steps": 5, "step_share": 0.7, "every": 1, "lam_max": None},
        "collect": PLAIN_ROLL_OUTS,
        "train": {
            "env_steps": row.epochs * ROLLOUTS * horizon,
            "episodes": ROLLOUTS,
            "states": MINIBATCH,
            "policy_steps": row.m_steps,
            "critic_steps": 1,
            "average": 0.0,
        },
    }


def on_policy_settings(task: str, horizon: int) -> dict[str, Any]:
    """Return the paper's configuration of a task for the on-policy methods, as sections of a pipeline file.

    Source: Table 4 and B.3. The authors' public code differs in: clip 0.2, gamma 0.99, and SA-PPO's squared
    difference of actions (`ppo.smoothing_loss`). Not printed, and ours: the weight of the smoothness, the
    value functions' steps, T_s and T_i, and how often the attackers' critics are fitted (once through an
    epoch's batch).
    """
    row = TABLE_4_ON_POLICY[task]
    episodes = row.batch // horizon
    return {
        "networks": _networks(),
        "critics": _critics(gamma=0.995, replay=row.batch),
        "adversary": {"epsilon": None, "steps": 200, "step_share": 0.5},
        "collect": PLAIN_ROLL_OUTS,
        "ppo": {
            "actor_steps": row.actor_steps,
            "minibatch": MINIBATCH,
            "learning_rate": row.actor_rate,
            "value_learning_rate": 1e-3,
            "clip": 0.02,
            "target_kl": 0.01,
            "gae_decay": 0.97,
            "pid_proportional": 0.1,
            "pid_integral": 0.003,
            "pid_derivative": 0.001,
            "smoothing_loss": "kl",
        },
        "train": {
            "env_steps": row.epochs * row.batch,
            "episodes": episodes,
            "warm_up_episodes": episodes,
            "rounds": row.batch // MINIBATCH,
            "critic_steps": 1,
            "average": 0.0,
        },
    }


def _networks() -> dict[str, Any]:
    """Return the paper's networks, whatever spread and unit of the observation a pipeline file has."""
    return {
        "policy_hidden": [256, 256],
        "critic_hidden": [256, 256],
        "init_std": 0.5,
        "min_std": 0.1,
        "max_std": 1.0,
        "obs_scale": 1.0,
    }


def _critics(gamma: float, replay: int) -> dict[str, Any]:
    return {
        "learning_rate": 1e-3,
        "batch": MINIBATCH,
        "gamma_reward": gamma,
        "gamma_cost": gamma,
        "polyak": 0.995,
        "n_step_reward": 1,
        "n_step_cost": 1,
        "replay": replay,
    }
