"""Run the commands in this process, with settings small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from harden.cli import main
from harden.errors import Interrupted

SMALL = {
    "networks.policy_hidden": "[16]",
    "networks.critic_hidden": "[16]",
    "collect.envs": "2",
    "collect.workers": "0",
    "critics.batch": "32",
    "critics.n_step_reward": "3",
    "critics.n_step_cost": "3",
    "estep.particles": "4",
    "train.env_steps": "1200",
    "train.episodes": "2",
    "train.warm_up_episodes": "2",
    "train.warm_up_critic_steps": "3",
    "train.rounds": "2",
    "train.final_critic_steps": "3",
    "train.states": "24",
    "train.policy_steps": "3",
    "train.critic_steps": "2",
    "estep.limit_start": '"measured"',
    "estep.limit_ramp": "0.6",
    "collect.correlation": "0.5",
    "collect.mean_share": "0.5",
    "train.average": "0.5",
    "mstep.learning_rate_end": "0.0001",
    "adversary.lam_max": "12.0",
    "adversary.ramp_start": "0.0",
    "adversary.ramp": "0.5",
    "adversary.steps": "2",
    "world.hidden": "[16]",
    "world.first_steps": "20",
    "world.steps": "5",
    "world.batch": "32",
    "world.chains": "10",
    "world.every": "1",
    "world.length": "6",
    "world.attack_steps": "2",
    "evaluate.queries": "5",
    "evaluate.independent_episodes": "2",
    "evaluate.independent_steps": "3",
    "evaluate.learned_rounds": "1",
    "evaluate.learned_episodes": "2",
    "evaluate.learned_steps": "3",
    "evaluate.simulator_episodes": "32",
}
SETTINGS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
ALLOW = "--allow-attacked-collection"


def harden(*words: str, code: int = 0) -> Result:
    """Run a command in this process and check its exit code."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (words, result.output, result.exception)
    return result


def refused(*words: str, code: int = 2) -> str:
    """Run a command that must fail; returns its one line."""
    result = CliRunner().invoke(main, list(words))
    lines = [line for line in result.output.splitlines() if line.startswith("error:") or "Error:" in line]
    assert result.exit_code == code, (result.output, result.exception)
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a run's state."""
    from harden.storage.tensor_file import read_tensors

    return read_tensors(path / "state.safetensors", "")[0]


def assert_same_run(a: Path, b: Path) -> None:
    """Check that two runs ended in the same state, to the bit."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def stages(output: str) -> dict[str, str]:
    """Return each stage's status from what `status` printed."""
    return {line.split()[0]: line.split()[1] for line in output.splitlines()}


def stop_after(function: Any, calls: int) -> Any:
    """Return a function that is interrupted right after its n-th call."""
    done = 0

    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal done
        result = function(*args, **options)
        done += 1
        if done == calls:
            raise Interrupted("stopped by the test")
        return result

    return wrapped
