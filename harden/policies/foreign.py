"""A policy that somebody else made: how it is asked, and what it has to answer."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.child import Child, ChildEndedError
from harden.errors import DamagedFileError, InputError
from harden.nets import GaussianPolicy
from harden.policies.worker import MOST_BYTES
from harden.storage.files import require_file

# for one request to a child process; a policy answers within milliseconds
SECONDS = 10
SPREADS = ("std", "log-std", "none")
MEMORYLESS = "harden takes policies whose action depends on one observation alone"


class ForeignPolicy(NamedTuple):
    """A policy that was read from a file or a function.

    Args:
        kind: onnx, torchscript, safetensors or callable.
        run: observations (B, obs_dim) to the mean action and the spread (None where it brings none), both
            (B, act_dim) in the action space's units.
        adopted: our policy with its weights, None where it holds anything that ours does not.
        spread: where the spread of `adopted` comes from, in words; "" where the file brings none.
        differentiable: `run` lets gradients through.
        identity: the digest of what it was read from; "" of a function.
    """

    kind: str
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    adopted: GaussianPolicy | None = None
    spread: str = ""
    differentiable: bool = False
    identity: str = ""


class LimitedProcess:
    """A child process in which a policy file is loaded and run under limits of time and memory.

    Args:
        path: the file.
        library: what it needs to run, imported before the limits hold.
    """

    def __init__(self, path: Path, library: str) -> None:
        self.path, self.child = path, Child("harden.policies.worker")
        self.child.send("start", library)
        self.child.receive()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of `harden.policies.worker.Worker` answers.

        Raises:
            InputError: what the method raises, or the file took too long or too much memory.
        """
        try:
            self.child.send(method, self.path, *arguments, seconds=SECONDS)
            return self.child.receive()
        except ChildEndedError as error:
            late = error.status == -signal.SIGALRM
            why = f"took more than {SECONDS} s" if late else f"ended its process with status {error.status}"
            raise InputError(
                f"{self.path} {why} when it was run",
                "a policy file is run under limits of time and memory; a policy answers within milliseconds",
            ) from error


def check_file(path: Path) -> None:
    """Refuse what can't be a policy before it is read.

    Raises:
        MissingInputError: no such file; StorageError: it may not be read; DamagedFileError: far too large.
    """
    require_file(path, "name a safetensors, TorchScript or ONNX file")
    if path.stat().st_size > MOST_BYTES:
        raise DamagedFileError(
            f"{path} has {path.stat().st_size:,} bytes", f"a policy file has at most {MOST_BYTES:,}"
        )


def require_one_input(path: Path, names: Sequence[str]) -> None:
    """Refuse a policy that takes anything beside observations.

    Raises:
        InputError: another number of inputs than one.
    """
    if len(names) != 1:
        raise InputError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}), as a recurrent policy does", MEMORYLESS
        )


def as_gaussian(outputs: list[Tensor], spread: str | None, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return the mean and the spread among a foreign policy's outputs.

    Args:
        outputs: as the policy gave them.
        spread: what the second one is: std, log-std, none (ignored), or None where the user did not say.

    Raises:
        InputError: more than one output and the user did not say what the second is, or only one output and
            the user asks for a spread.
    """
    if spread == "none" or (len(outputs) == 1 and spread is None):
        return outputs[0], None
    if len(outputs) < 2:
        raise InputError(f"{path} gives one output, no spread", "leave out --spread")
    if spread is None:
        remedy = f"say what the second is with --spread {'|'.join(SPREADS)}"
        raise InputError(f"{path} gives {len(outputs)} outputs", remedy)
    return outputs[0], outputs[1].exp() if spread == "log-std" else outputs[1]


@torch.no_grad()
def answer(policy: ForeignPolicy, obs: Tensor, act_dim: int, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return what a foreign policy answers, checked.

    Args:
        obs: (B, obs_dim).

    Returns:
        The mean action and the spread, or None, both (B, act_dim).

    Raises:
        InputError: another shape, NaN or infinity, a spread not above 0, or another answer each time.
    """
    mean, std = policy.run(obs)
    for name, value in (("actions", mean), ("spread", std)):
        if value is None:
            continue
        if value.shape != (len(obs), act_dim):
            raise InputError(
                f"{path} gives {name} of shape {tuple(value.shape)} for {len(obs)} observations",
                f"the task has {act_dim} actions",
            )
        if not bool(value.isfinite().all()) or (name == "spread" and not bool((value > 0).all())):
            raise InputError(f"{path} gives {name} that are no numbers, or not above 0 where they must be")
    few, again = (policy.run(obs[:8])[0] for _ in range(2))
    # rounding differs with the size of a batch, in half precision by more than a little
    alike = torch.allclose(few, mean[:8], rtol=1e-2, atol=1e-2)
    if not alike or not torch.allclose(few, again, rtol=0, atol=1e-5):
        raise InputError(
            f"{path} gives another action each time: it keeps a state between calls, as a recurrent policy "
            "or one that stacks observations does, or it draws its actions",
            f"{MEMORYLESS}; of one that draws, export the mean action",
        )
    return mean, std
