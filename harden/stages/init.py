"""init --env: a pipeline file for a simulator of the user's own, with what the simulator says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from harden.config.file import assigned
from harden.config.pipeline import make_config
from harden.config.sections import OwnTask
from harden.envs.ask import describe
from harden.errors import InputError

# what no environment knows
_DECIDE = {
    "cost_limit": ("5.0", "the cost that an episode may have; a step costs 0 to max_step_cost (1)"),
    "epsilon": (
        "0.05",
        "how far a sensor may err, in the observation's own units: a number, or one a coordinate",
    ),
    "horizon": ("200", "the most steps of an episode, as the environment has no time limit of its own"),
}


class Begun(NamedTuple):
    """A pipeline file that is to be written.

    Args:
        name: its stem; text: its content.
        found: lines for people: what the environment said.
        undecided: keys that have to be set before it can be used.
    """

    name: str
    text: str
    found: list[str]
    undecided: list[str]


def own_pipeline(env: str, python: str, assignments: Sequence[str]) -> Begun:
    """Ask an environment what it is, with one step, and return a pipeline file for it.

    Args:
        env, python: as in the file; python "" for this one.
        assignments: keys of the task, such as "task.cost_limit=5".

    Raises:
        InputError: there is no such environment, it can't be used as it is, or a key is not the task's.
    """
    tree = assigned(assignments)
    given = tree.pop("task", {})
    if tree or not isinstance(given, dict):
        raise InputError("init --env sets keys of the task alone", "write --set task.KEY=VALUE")
    given = {"env": env} | ({"python": python} if python else {}) | given
    undecided = {"cost_limit": 0, "epsilon": 0}
    task = make_config({"task": undecided | given}, "the task", assignments).task
    assert isinstance(task, OwnTask)
    said, low, high = describe(task.row, play=True)
    said |= {"action_low": low, "action_high": high}
    observes = "; ".join(": ".join(filter(None, part)) for part in said["observes"])
    notes = {"obs_dim": observes, "act_dim": said["acts"], "horizon": "its own time limit"}
    values: dict[str, Any] = given | {
        key: said[key]
        for key in ("horizon", "obs_dim", "act_dim", "action_low", "action_high")
        if key not in given and said[key] is not None
    }
    lines = [f"{key} = {json.dumps(value)}{_note(notes, key, given)}" for key, value in values.items()]
    open_keys = [key for key in _DECIDE if key not in values]
    lines += [f"# DECIDE: {_DECIDE[key][1]}\n# {key} = {_DECIDE[key][0]}" for key in open_keys]
    versions = ", ".join(
        filter(None, [f"Python {said['python']}", f"NumPy {said['numpy']}", said["gymnasium"]])
    )
    found = [
        f"simulated by {versions}",
        f"observes {said['obs_dim']} numbers: {observes}",
        f"takes {said['act_dim']} numbers: {said['acts']}; they are from {low} to {high}",
        f"time limit: {said['horizon'] or 'none of its own'}",
        f"a first step: reward {said['step']['reward']:g}, cost {said['step']['cost']:g}",
    ]
    text = f"# What {env} says of itself, and what only you can say; all keys: harden/config/sections.py\n"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", env.rpartition(":")[2])
    return Begun(name, "\n".join([text + "[task]", *lines, ""]), found, open_keys)


def _note(notes: dict[str, str], key: str, given: dict[str, Any]) -> str:
    return f"  # {notes[key]}" if key in notes and key not in given else ""
