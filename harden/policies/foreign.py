"""A policy that somebody else made: how it is asked, what it has to answer, and how it stands among ours."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from harden.child import exit_status, start_child
from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.policies import worker
from harden.policies.reading import Reading
from harden.storage.files import require_file

# for one request to a child process; a policy answers within milliseconds
SECONDS = 10
MEMORYLESS = "harden takes policies whose action depends on one observation alone"
# how far a roll-out that is to teach critics leaves the policy's action; a share of half the action range
_SPREAD = 0.3
_PROBES = 256
# how many observations a policy is tried on before it is taken for one, and how far they reach
_TRIED, _REACH = 512, 2.0
_CONTRACT = "it has to take a float32 array (B, obs_dim) and return actions (B, act_dim)"


class ForeignPolicy(NamedTuple):
    """A policy that was read from a file or a function.

    Args:
        kind: onnx, torchscript, safetensors, sb3 or callable.
        run: observations (B, obs_dim) to the mean action and the spread (None where it brings none), both
            (B, act_dim) in the action space's units.
        adopted: our policy with its weights, None where it holds anything that ours does not.
        spread: where the spread of `adopted` comes from, in words; "" where the file brings none.
        differentiable: `run` lets gradients through.
        identity: the digest of what it was read from; "" of a function.
        notes: what was taken for granted in reading it, in words.
    """

    kind: str
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    adopted: GaussianPolicy | None = None
    spread: str = ""
    differentiable: bool = False
    identity: str = ""
    notes: str = ""


class OpaquePolicy(GaussianPolicy):
    """Somebody else's policy among ours: its mean is what it answers, its spread made up where it has none.

    Args:
        source: what answers.
        obs_dim: coordinates of an observation.
        low, high: the lowest and the highest action, (act_dim,) each.
    """

    def __init__(self, source: ForeignPolicy, obs_dim: int, low: Tensor, high: Tensor) -> None:
        nn.Module.__init__(self)
        self.source, self.differentiable = source, source.differentiable
        self.architecture: dict[str, Any] = {"kind": "opaque", "obs_dim": obs_dim, "act_dim": len(low)}
        self.set_bounds(low, high)

    def mean(self, obs: Tensor) -> Tensor:
        """Return its action, inside the action space, (..., act_dim)."""
        return self(obs)[0]

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return its action, and its spread or the one that we give it, both (..., act_dim)."""
        rows, act_dim = obs.reshape(-1, self.architecture["obs_dim"]), self.architecture["act_dim"]
        actions, std = self.source.run(rows)
        if actions.shape != (len(rows), act_dim):
            shape = f"actions of shape {tuple(actions.shape)} for {len(rows)} observations"
            raise InputError(f"the policy gives {shape}", f"it has to give {act_dim} for each of a batch")
        mean = self.clip(actions.to(obs)).reshape(*obs.shape[:-1], -1)
        spread = _SPREAD * self.half_range if std is None else std.to(obs).reshape(mean.shape)
        return mean, spread.expand_as(mean)

    def digest(self) -> str:
        """Return an identity: of its files, of a function its answers to fixed observations.

        Two policies that answer alike to these observations may differ elsewhere; a function shows no more.
        """
        if self.source.identity:
            return self.source.identity
        draw = torch.Generator().manual_seed(0)
        probes = torch.randn(_PROBES, self.architecture["obs_dim"], generator=draw)
        with torch.no_grad():
            answers = self.mean(probes.to(self.half_range.device)).cpu().numpy()
        return hashlib.sha256(np.round(answers, 4).tobytes()).hexdigest()


class LimitedProcess:
    """A child process in which a policy file is loaded and run under limits of time and memory.

    Args:
        path: the file.
        library: what it needs to run, imported before the limits hold.
    """

    def __init__(self, path: Path, library: str) -> None:
        # (-P) modules are not looked for first in the folder that the user stands in
        self.process, ours = start_child([sys.executable, "-P", "-m", worker.__name__])
        self.path, self.pipe = path, Connection(ours.detach())
        self._call(worker.limit, library, seconds=0)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function makes of the file.

        Raises:
            InputError: what the function raises, or the file took too long or too much memory.
        """
        return self._call(function, self.path, *arguments, seconds=SECONDS)

    def _call(self, function: Callable[..., Any], *arguments: Any, seconds: int) -> Any:
        try:
            self.pipe.send((seconds, function, arguments))
            answered, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            status = exit_status(self.process)
            late = status == -signal.SIGALRM
            why = f"took more than {SECONDS} s" if late else f"ended its process with status {status}"
            remedy = "it runs under limits of time and memory; a policy answers within milliseconds"
            raise InputError(f"{self.path} {why} when it was run", remedy) from error
        if not answered:
            raise value
        return value

    def close(self) -> None:
        """End the child, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def call_limited(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module makes of a file, in a LimitedProcess; errors as its `ask`."""
    process = LimitedProcess(path, function.__module__)
    try:
        return process.ask(function, *arguments)
    finally:
        process.close()


def check_file(path: Path, remedy: str) -> None:
    """Refuse what can't be a policy before it is read: as `require_file`, or far too large."""
    require_file(path, remedy)
    if (size := path.stat().st_size) > worker.MOST_BYTES:
        raise DamagedFileError(f"{path} has {size:,} bytes", f"at most {worker.MOST_BYTES:,} are read")


def require_one_input(path: Path, names: Sequence[str]) -> None:
    """Refuse a policy that takes anything beside observations: InputError."""
    if len(names) != 1:
        several = f"{len(names)} inputs ({', '.join(names)}), as a recurrent policy does"
        raise InputError(f"{path} takes {several}", MEMORYLESS)


def require_width(path: Path, given: int, obs_dim: int) -> None:
    """Refuse a policy of another number of coordinates than the task's: InputError."""
    if given > obs_dim and given % obs_dim == 0:
        what = f"{given // obs_dim} observations of {obs_dim} coordinates at once ({given}): a stacked policy"
        raise InputError(f"{path} takes {what}", MEMORYLESS)
    if given != obs_dim:
        raise InputError(f"{path} takes {given} coordinates", f"the task's observations have {obs_dim}")


def chosen_outputs(names: Sequence[str], reading: Reading, path: Path) -> list[str]:
    """Return the names of the output that is the action, and of its spread where the user said there is one.

    Args:
        names: of all outputs, in order.

    Raises:
        InputError: no output, several and the user chose none, no such output, or no spread.
    """
    if not names:
        raise InputError(f"{path} gives no output", "a policy gives actions for observations")
    first = reading.output or names[0]
    others = [name for name in names if name != first]
    unsaid = reading.output is None and reading.spread is None and others
    if unsaid or first not in names or (reading.spread not in (None, "none") and len(others) != 1):
        remedy = "choose the action's with --output NAME, and say what the other one of two is with --spread"
        raise InputError(f"{path} gives the outputs {', '.join(names)}", remedy)
    return [first] if reading.spread in (None, "none") else [first, *others]


def as_gaussian(outputs: Sequence[Tensor], reading: Reading) -> tuple[Tensor, Tensor | None]:
    """Return the mean and the spread that chosen outputs are."""
    mean, *rest = outputs
    if not rest:
        return mean, None
    return mean, rest[0].exp() if reading.spread == "log-std" else rest[0]


@torch.no_grad()
def answer(policy: ForeignPolicy, obs: Tensor, act_dim: int, named: object) -> tuple[Tensor, Tensor | None]:
    """Return the mean action and the spread, or None, that a foreign policy answers, both (B, act_dim).

    Args:
        obs: (B, obs_dim).
        named: what it is called where it fails.

    Raises:
        InputError: another shape, NaN or infinity, a spread not above 0, or another answer each time.
    """
    mean, std = policy.run(obs)
    for name, value in (("actions", mean), ("spread", std)):
        if value is None:
            continue
        if value.shape != (len(obs), act_dim):
            shape = f"{name} of shape {tuple(value.shape)} for {len(obs)} observations"
            raise InputError(f"{named} gives {shape}", f"the task has {act_dim} actions")
        if not bool(value.isfinite().all()) or (name == "spread" and not bool((value > 0).all())):
            raise InputError(f"{named} gives {name} that are no numbers, or not above 0 where they must be")
    few, again = (policy.run(obs[:8])[0] for _ in range(2))
    # rounding differs with the size of a batch, in half precision by more than a little
    alike = torch.allclose(few, mean[:8], rtol=1e-2, atol=1e-2)
    if not alike or not torch.allclose(few, again, rtol=0, atol=1e-5):
        what = f"{named} gives another action each time: it is recurrent, stacked, or draws its actions"
        raise InputError(what, f"{MEMORYLESS}; of one that draws, export the mean action")
    return mean, std


def probe_observations(obs_dim: int) -> Tensor:
    """Return the observations that a policy is tried on before it is taken for one, (B, obs_dim)."""
    draw = torch.Generator().manual_seed(0)
    return _REACH * (2 * torch.rand((_TRIED, obs_dim), generator=draw) - 1)


def is_function_name(named: str | Path) -> bool:
    """Return whether a policy is named as module:function."""
    module, colon, function = str(named).partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])


def policy_name(named: str | Path | Callable[..., Any]) -> str:
    """Return what a policy is called: its path or name, of a function the function's own name."""
    return str(getattr(named, "__name__", type(named).__name__) if callable(named) else named)


def import_function(named: str) -> ForeignPolicy:
    """Import module:function, from where Python looks and the working folder; InputError: it is none."""
    module_name = named.partition(":")[0]
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    remedy = f"name it as module:function, from a folder where python -c 'import {module_name}' works"
    with foreign_errors(f"policy '{named}' can't be imported", remedy):
        function = pkgutil.resolve_name(named)
    if not callable(function):
        raise InputError(f"policy '{named}' is no function", _CONTRACT)
    return from_function(function, named)


def from_function(function: Callable[..., Any], named: str | None = None) -> ForeignPolicy:
    """Return a function as a foreign policy; `run` raises InputError for whatever goes wrong in it.

    Args:
        function: is given a float32 array (B, obs_dim), and deterministic=True where it takes that, for
            Stable-Baselines3's `predict`; of a tuple that it returns the first counts.
        named: what it is called where it fails, its own name where not given.
    """
    policy, options = f"policy '{named or policy_name(function)}'", dict[str, bool]()
    # some functions that are not written in Python have no signature
    with contextlib.suppress(TypeError, ValueError):
        if "deterministic" in inspect.signature(function).parameters:
            options["deterministic"] = True

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        batch = obs.detach().cpu().numpy().astype(np.float32)
        with foreign_errors(f"{policy} fails on an array {batch.shape}", _CONTRACT):
            result = function(batch, **options)
            actions = np.asarray(result[0] if isinstance(result, tuple) else result, dtype=np.float32)
        if actions.ndim != 2 or len(actions) != len(obs):
            raise InputError(f"{policy} gives {actions.shape} for {len(obs)} observations", _CONTRACT)
        return torch.as_tensor(actions).to(obs.device), None

    return ForeignPolicy("callable", run)
