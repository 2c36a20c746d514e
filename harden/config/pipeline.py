"""A pipeline's configuration: its sections together, checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harden.config import sections
from harden.config.problems import first_problem
from harden.config.tasks import TASKS, Task
from harden.config.variants import VARIANTS, Variant
from harden.errors import InputError, known_names


class PipelineConfig(sections.Section):
    """A whole pipeline: the task, the variant, and each stage's section.

    `task` names a row of harden/config/tasks.py, or is a table that describes another one (sections.OwnTask).

    `preset` says whose settings were put over the file's: nobody's, or the paper's (config/paper.toml).
    """

    task: Annotated[
        Annotated[str, Tag("name")] | Annotated[sections.OwnTask, Tag("table")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "table"),
    ] = "ball-circle"
    variant: str = "safer-model"
    preset: Literal["none", "paper"] = "none"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    cost_limit: sections.NonNegative | None = None
    networks: sections.Networks = sections.Networks()
    collect: sections.Collect = sections.Collect()
    critics: sections.CriticsConfig = sections.CriticsConfig()
    estep: sections.EStep = sections.EStep()
    mstep: sections.MStep = sections.MStep()
    adversary: sections.Adversary = sections.Adversary()
    world: sections.World = sections.World()
    train: sections.Train = sections.Train()
    by_hand: sections.ByHand = sections.ByHand()
    offline: sections.Offline = sections.Offline()
    imitation: sections.Imitation = sections.Imitation()
    ppo: sections.OnPolicy = sections.OnPolicy()
    evaluate: sections.Evaluation = sections.Evaluation()

    @field_validator("task", "variant")
    @classmethod
    def _a_row(cls, name: Any, info: ValidationInfo) -> Any:
        rows, more = list(VARIANTS), ""
        if info.field_name == "task":
            rows, more = list(TASKS), " (or describe another one as a table [task])"
        if isinstance(name, str) and name not in rows:
            raise ValueError(known_names(name, rows, "choose one of") + more)
        return name

    @field_validator("preset")
    @classmethod
    def _of_a_task_in_the_paper(cls, preset: str, info: ValidationInfo) -> str:
        if preset != "none" and isinstance(info.data.get("task"), sections.OwnTask):
            raise ValueError("the paper has no settings for a task of your own")
        return preset

    @model_validator(mode="after")
    def _limit_falls(self) -> PipelineConfig:
        start, end = self.estep.limit_start, self.train_limit
        if isinstance(start, float) and not start >= end > 0:
            raise ValueError(f"estep.limit_start = {start:g} must be at least its end, {end:g}, above 0")
        return self

    @property
    def train_limit(self) -> float:
        """The cost an episode that the E-step allows at the end of training."""
        return self.task_row.cost_limit if self.estep.limit_end is None else self.estep.limit_end

    @property
    def task_row(self) -> Task:
        """The task, with this pipeline's cost limit in place of the task's own where one is set."""
        task = TASKS[self.task] if isinstance(self.task, str) else self.task.row
        return task if self.cost_limit is None else task._replace(cost_limit=self.cost_limit)

    @property
    def variant_row(self) -> Variant:
        """The variant's row."""
        return VARIANTS[self.variant]

    @property
    def behaviour(self) -> str:
        """How training collects: as the variant's row says, else as the pipeline does."""
        return self.variant_row.behaviour or self.collect.behaviour

    @property
    def refreshes(self) -> int:
        """How many refreshes `train` does: whole ones, enough for `train.env_steps`; offline as it says."""
        train, horizon = self.train, self.task_row.horizon
        if train.offline:
            return self.offline.refreshes
        after_warm_up = max(train.env_steps - train.warm_up_episodes * horizon, 0)
        return 1 + -(-after_warm_up // (train.episodes * horizon))

    @property
    def most_steps(self) -> int:
        """The steps of simulation that online training comes to where no episode ends early."""
        train = self.train
        episodes = train.warm_up_episodes + (self.refreshes - 1) * train.episodes
        return episodes * self.task_row.horizon

    @property
    def train_epsilon(self) -> float:
        """The full radius that training defends against, in raw observation units."""
        return self.task_row.epsilon if self.adversary.epsilon is None else self.adversary.epsilon

    @property
    def eval_epsilon(self) -> float:
        """The radius of an evaluation's attacks, in raw observation units."""
        return self.task_row.epsilon if self.evaluate.epsilon is None else self.evaluate.epsilon


def _similar_keys(key: str) -> str:
    """Return the keys that an unknown one may have been meant for, or all of its section."""
    section, _, name = key.rpartition(".")
    fields = (PipelineConfig().model_dump() | {"task": sections.OwnTask.model_fields}).get(section)
    known = list(fields) if isinstance(fields, dict) else list(PipelineConfig.model_fields)
    if not section and (elsewhere := [full for full in keys() if full.endswith(f".{name}")]):
        return f"did you mean {' or '.join(elsewhere)}?"
    return known_names(name, known, "known keys")


def keys() -> dict[str, str]:
    """Return each key of a pipeline, such as "train.env_steps", with its default and what is allowed.

    A section stands before its keys, with what it is about.
    """
    schema, rows = PipelineConfig.model_json_schema(), dict[str, str]()
    for name, field in schema["properties"].items():
        table = next((one["$ref"] for one in (field, *field.get("oneOf", ())) if "$ref" in one), None)
        rows[name] = _allowed(field)
        if table is not None:
            section = schema["$defs"][table.rpartition("/")[2]]
            rows[name] = " ".join(section["description"].split())
            rows |= {f"{name}.{key}": _allowed(part) for key, part in section["properties"].items()}
    return rows


# a bound of floats that only keeps their squares finite is none to a reader
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _allowed(part: dict[str, Any]) -> str:
    """Return the default of a key, by its schema, and the types and ranges that are allowed."""
    ways = []
    for one in part.get("anyOf", [part]):
        kind = " or ".join(one["enum"]) if "enum" in one else one.get("const", one.get("type", "any"))
        named = (
            f"{word} {one[b]:g}" for b, word in _BOUNDS.items() if one.get(b, sections.MOST) < sections.MOST
        )
        ways.append(" ".join([kind, *named]))
    default = json.dumps(part["default"]) if part.get("default") is not None else "unset"
    ways = [way for way in ways if way != "null"]
    return f"{default if 'default' in part else 'to be given'}; {' or '.join(ways)}"


def _blamed(key: str, where: str, assignments: Sequence[str]) -> str:
    """Return what set a key: an assignment, or the file, with the assignments beside the key or below it."""
    texts = {text.partition("=")[0].strip(): f"--set {' '.join(text[:120].split())}" for text in assignments}
    for name, text in texts.items():
        if f"{key}.".startswith(f"{name}."):
            return text
    section = key.rpartition(".")[0] or key
    near = [text for name, text in texts.items() if name.startswith((f"{section}.", f"{key}.")) or not key]
    return f"{where} with {' '.join(near)}" if near else where


# keys of earlier versions, and today's that say the same
_RENAMED: dict[str, dict[str, tuple[str, ...]]] = {
    "critics": {"gamma": ("gamma_reward", "gamma_cost"), "n_step": ("n_step_reward", "n_step_cost")},
    "mstep": {"beta_robust_max": ("kl_robust_weight",)},
    "adversary": {"long_horizon": ()},
    # of training from logs as it was before it worked in a world model of them
    "offline": {"kl_bound": (), "pessimism": (), "support": ()},
}


def renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the keys of an earlier version under their names of today."""
    new = dict(tree)
    for section, names in _RENAMED.items():
        old = dict(tree.get(section, {}))
        for name, todays in names.items():
            if name in old:
                value = old.pop(name)
                old = dict.fromkeys(todays, value) | old
        new[section] = old
    # the table of a task of the user's own, which none of the stored ones is of
    new.pop("own_task", None)
    # a key that came since, and what was so without it
    new["critics"] = {"scale_rewards": False} | new["critics"]
    if new.get("estep", {}).get("limit_start", "") is None:
        new["estep"] = new["estep"] | {"limit_start": "limit"}
    return new


def make_config(
    tree: dict[str, Any], where: str = "configuration", assignments: Sequence[str] = ()
) -> PipelineConfig:
    """Check a configuration given as nested dictionaries.

    Args:
        where: it comes from, for the message.
        assignments: those among `tree` that came with the command, such as "seed=3".

    Raises:
        InputError: names the key, the value and what is allowed.
    """
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problem = first_problem(error, tree)
        blamed, remedy = _blamed(problem.key, where, assignments), ""
        if problem.kind == "extra_forbidden":
            remedy = _similar_keys(problem.key)
        elif blamed.startswith("--set") and isinstance(problem.value, str) and problem.kind.endswith("_type"):
            # ".5" and "True" are no TOML, and so were taken for text
            remedy = "values are read as TOML, such as 0.5, true or [1, 2]"
        raise InputError(f"{blamed}: {problem}", remedy) from None


def key_value(config: PipelineConfig, key: str, given: Any = None) -> Any:
    """Return the value of a key such as "critics.steps": the one given, checked, or the pipeline's if None.

    Raises:
        InputError: it is not allowed.
    """
    section, name = key.split(".")
    if given is not None:
        config = make_config({section: {name: given}})
    return getattr(getattr(config, section), name)


# sections that the result of every stage depends on, and that those of some do
_ALL = ("task", "variant", "seed", "cost_limit")
_OWN = {
    "fit-critics": ("networks", "critics"),
    "e-step": ("estep", "by_hand"),
    "fit-policy": ("networks", "mstep", "by_hand", "adversary"),
}


def stage_sections(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Return the sections of the pipeline that a stage's result depends on, by name, as JSON has them.

    Args:
        stage: "fit-critics", "e-step" or "fit-policy".
        config: the pipeline.
    """
    variant = config.variant_row
    more = {
        # Q_c's future, the replayed observations; and the ceiling of lam, which rises with epsilon
        "adversary": {
            "fit-critics": variant.long_horizon or variant.attack_replay,
            "e-step": variant.adversarial,
        },
        "world": {"fit-critics": variant.imagined},
        "ppo": {"fit-policy": variant.on_policy},
    }
    names = [*_ALL, *_OWN[stage], *(name for name, stages in more.items() if stages.get(stage))]
    # where a task is simulated is no part of what it is
    whole = config.model_dump(mode="json", exclude={"task": {"python", "timeout"}})
    return {name: whole[name] for name in names}
