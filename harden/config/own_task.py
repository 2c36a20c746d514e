"""A task that harden has no row for, as a table of a pipeline file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from harden.config.sections import MOST, Count, NonNegative, Positive, Section
from harden.config.tasks import Task

Finite = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Coordinates = Annotated[int, Field(ge=1, le=10_000)]
Bounds = Annotated[tuple[Finite, ...], Field(strict=False)]
Scales = Annotated[tuple[NonNegative, ...], Field(strict=False)]


class OwnTask(Section):
    """A task that harden has no row for; what each key means: harden/config/tasks.py.

    `env_id` empty: there is no simulation, only data. `epsilon` is one number, or one a coordinate; with
    `observation_std` it is a share of that, one number a coordinate as `harden data info` shows them.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    env_id: str = ""
    module: str = ""
    horizon: Count
    cost_limit: NonNegative
    epsilon: NonNegative | Scales
    observation_std: Scales | None = None
    obs_dim: Coordinates
    act_dim: Coordinates
    max_step_cost: Positive = 1.0
    action_low: Bounds | None = None
    action_high: Bounds | None = None

    @model_validator(mode="after")
    def _as_many_as_coordinates(self) -> OwnTask:
        for key, size in (
            ("epsilon", self.obs_dim),
            ("observation_std", self.obs_dim),
            ("action_low", self.act_dim),
            ("action_high", self.act_dim),
        ):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != size:
                raise ValueError(f"{key} has {len(value)} numbers for {size} coordinates")
        row = self.row
        if not all(low < high for low, high in zip(*row.bounds, strict=True)):
            raise ValueError("it must hold that action_low < action_high")
        return self

    @property
    def row(self) -> Task:
        """The same as a row of the table of tasks."""
        several = isinstance(self.epsilon, tuple)
        each = self.epsilon if isinstance(self.epsilon, tuple) else (1.0,) * self.obs_dim
        unit = tuple(e * s for e, s in zip(each, self.observation_std or (1.0,) * self.obs_dim, strict=True))
        return Task(
            name=self.name,
            env_id=self.env_id,
            module=self.module,
            horizon=self.horizon,
            cost_limit=self.cost_limit,
            epsilon=1.0 if isinstance(self.epsilon, tuple) else self.epsilon,
            obs_dim=self.obs_dim,
            act_dim=self.act_dim,
            max_step_cost=self.max_step_cost,
            epsilon_unit=unit if several or self.observation_std else (),
            action_low=self.action_low or (),
            action_high=self.action_high or (),
        )
