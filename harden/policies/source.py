"""A policy out of somebody else's hands: how it is asked, and what it has to answer."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.child import Child, ChildEndedError
from harden.errors import DamagedFileError, InputError
from harden.nets import GaussianPolicy
from harden.storage.files import digest_file, require_file

# for one request, a few milliseconds for a policy
SECONDS = 10
MOST_BYTES = 256 * 2**20
SPREADS = ("std", "log-std", "none")
_MEMORYLESS = "harden takes policies whose action depends on one observation alone"


class Source(NamedTuple):
    """A policy that was read.

    Args:
        kind: onnx, torchscript, safetensors or callable.
        run: observations (B, obs_dim) to the mean action and the spread (None where it brings none), both
            (B, act_dim) in the action space's units.
        ours: our policy with its weights, None where it holds anything that ours does not.
        spread: where the spread of `ours` comes from, in words; "" where the source brings none.
        differentiable: `run` lets gradients through.
        files: what it was read from.
    """

    kind: str
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    ours: GaussianPolicy | None = None
    spread: str = ""
    differentiable: bool = False
    files: tuple[Path, ...] = ()


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

    def ask(self, method: str, argument: Any) -> Any:
        """Return what a method of `harden.policies.worker.Worker` answers.

        Raises:
            InputError: what the method raises, or the file took too long or too much memory.
        """
        try:
            self.child.send(method, self.path, argument, seconds=SECONDS)
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


def digest_files(files: Sequence[Path]) -> str:
    """Return the sha256 of a file, of several that of their digests, in hexadecimal."""
    digests = [digest_file(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def require_one_input(path: Path, names: Sequence[str]) -> None:
    """Refuse a policy that takes anything beside observations.

    Raises:
        InputError: another number of inputs than one.
    """
    if len(names) != 1:
        raise InputError(
            f"{path} takes {len(names)} inputs ({', '.join(names)}), as a recurrent policy does", _MEMORYLESS
        )


def stacked(path: Path, axes: Sequence[object]) -> InputError:
    """Return the error about a policy that takes a history of observations; `axes` is its input's shape."""
    shape = ", ".join(str(axis) for axis in axes)
    return InputError(f"{path} takes [{shape}], several observations at once: a stacked policy", _MEMORYLESS)


def as_gaussian(outputs: list[Tensor], spread: str | None, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return the mean and the spread among a foreign policy's outputs.

    Args:
        outputs: as it gave them.
        spread: what the second one is: std, log-std, none (ignored), or None where nobody said.

    Raises:
        InputError: more than one output and nobody said what the others are, or none where one is asked for.
    """
    if len(outputs) == 1 and spread in (None, "none"):
        return outputs[0], None
    if len(outputs) < 2:
        raise InputError(f"{path} gives one output, no spread", "leave out --spread")
    if spread is None:
        raise InputError(
            f"{path} gives {len(outputs)} outputs",
            f"say what the second is with --spread {'|'.join(SPREADS)}",
        )
    if spread == "none":
        return outputs[0], None
    return outputs[0], outputs[1].exp() if spread == "log-std" else outputs[1]


@torch.no_grad()
def answer(source: Source, obs: Tensor, act_dim: int, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return what a foreign policy answers, checked.

    Args:
        obs: (B, obs_dim).

    Returns:
        The mean action and the spread, or None, both (B, act_dim).

    Raises:
        InputError: another shape, NaN or infinity, a spread not above 0, or another answer each time.
    """
    mean, std = source.run(obs)
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
    few, again = (source.run(obs[:8])[0] for _ in range(2))
    # rounding differs with the size of a batch, in half precision by more than a little
    alike = torch.allclose(few, mean[:8], rtol=1e-2, atol=1e-2)
    if not alike or not torch.allclose(few, again, rtol=0, atol=1e-5):
        raise InputError(
            f"{path} gives another action each time: it keeps a state between calls, as a recurrent policy "
            "or one that stacks observations does, or it draws its actions",
            f"{_MEMORYLESS}; of one that draws, export the mean action",
        )
    return mean, std
