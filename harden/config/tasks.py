"""The tasks: one row each."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """What a policy is asked to do, and under which threat.

    Args:
        name: how pipelines and commands call it.
        env_id: the Gymnasium id, or the class or function of the module that makes the environment; "" for a
            task of which there is no simulation, only data.
        module: the module that registers the id or holds the class, "" where none has to be imported.
        horizon: steps an episode, H.
        cost_limit: allowed cost an episode, kappa_H.
        epsilon: radius of the observation attack, in raw observation units or in those of `epsilon_unit`.
        obs_dim: coordinates of an observation.
        act_dim: coordinates of an action.
        max_step_cost: C_m, the highest cost of one step.
        fixed_time_step: seconds of physics a step; 0 leaves the package's own timing.
        substeps: parts that a fixed time step is solved in.
        epsilon_unit: what a radius of one means in each coordinate, raw units; empty for one in all.
        action_low, action_high: bounds of the actions; empty for -1 and 1.
        observations: what each coordinate is, for a reader; empty where nobody says.
        python: the interpreter that simulates; "" for the one that harden runs in.
        cost: what a step of logs costs, as a rule (harden/config/rule.py); "" for what the logs say.
        cost_key: the key of a step's info that holds its cost.
        obs_keys: of observations that are a dictionary, those that the policy sees, in order.
        timeout: seconds within which a simulation has to answer.
    """

    name: str
    env_id: str
    module: str
    horizon: int
    cost_limit: float
    epsilon: float
    obs_dim: int
    act_dim: int
    max_step_cost: float = 1.0
    fixed_time_step: float = 0.0
    substeps: int = 0
    epsilon_unit: tuple[float, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    observations: tuple[str, ...] = ()
    python: str = ""
    cost: str = ""
    cost_key: str = "cost"
    obs_keys: tuple[str, ...] = ()
    timeout: float = 300.0

    def radius(self, epsilon: float) -> float | tuple[float, ...]:
        """Return a radius in raw observation units: one number, or one a coordinate."""
        return tuple(epsilon * unit for unit in self.epsilon_unit) if self.epsilon_unit else epsilon

    def allows_cost(self, cost: float) -> bool:
        """Return whether a step can have that cost: in [0, C_m], what rounding leaves outside let pass."""
        return 0 <= cost <= self.max_step_cost * (1 + 1e-3)

    @property
    def bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest action, act_dim numbers each."""
        return self.action_low or (-1.0,) * self.act_dim, self.action_high or (1.0,) * self.act_dim


_BULLET = "bullet_safety_gym"
_XY = ("x / 10 m", "y / 10 m")
_TURN = tuple(f"turn rate about {axis} / 10" for axis in "xyz")
_BALL = (*_XY, "speed along x / 5", "speed along y / 5", *_TURN, "distance to the circle, scaled")
_CAR = (
    *(*_XY, "speed along x", "speed along y", "sine of the heading", "cosine of the heading"),
    *("turn rate / 10", "distance to the circle, scaled"),
)
_DRONE = (
    *(*_XY, "height / 10 m", *(f"speed along {axis} / 5" for axis in "xyz")),
    *(*(f"quaternion {axis}" for axis in "xyzw"), *_TURN, *(f"rotor {i}, scaled" for i in range(1, 5))),
)

_DRONE_RUN = Task("drone-run", "SafetyDroneRun-v0", _BULLET, 200, 5.0, 0.025, 17, 4, observations=_DRONE)
_ROWS = (
    Task("ball-circle", "SafetyBallCircle-v0", _BULLET, 200, 5.0, 0.05, 8, 2, observations=_BALL),
    Task("car-circle", "SafetyCarCircle-v0", _BULLET, 300, 5.0, 0.05, 8, 2, observations=_CAR),
    _DRONE_RUN,
    # the paper's physics: half as many steps, each twice as long
    _DRONE_RUN._replace(name="drone-run-paper", horizon=100, fixed_time_step=4 / 120, substeps=4),
    Task("ant-run", "SafetyAntRun-v0", _BULLET, 200, 5.0, 0.025, 33, 8),
)
TASKS: dict[str, Task] = {task.name: task for task in _ROWS}
