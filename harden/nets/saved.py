"""Models on disk: one safetensors file that proves itself, with a readable manifest beside it.

Weights and description are one file, replaced in one rename; `manifest.json` repeats the description for
a reader, so that an interruption between the two writes loses nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from harden.config.tasks import TASKS, Task
from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.nets import Critics, GaussianPolicy
from harden.storage.files import read_errors, read_json, write_json
from harden.storage.tensor_file import FORMAT_VERSION, ILL_DESCRIBED, read_tensors, write_tensors

Network = TypeVar("Network", GaussianPolicy, Critics)

# what a description says of the file that it stands in
_OF_ONE_FILE = ("critics", "critics_digest", "file_digest")
_KINDS = {GaussianPolicy: "gaussian-mlp", Critics: "q-ensemble"}


def module_digest(module: GaussianPolicy | Critics | None) -> str:
    """Return the identity of a policy or critics, "" for none: weights and what is made of them."""
    if module is None:
        return ""
    # which spread the weights began with is no part of what they answer
    acts = {key: value for key, value in module.architecture.items() if key != "init_std"}
    weights = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        weights.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        weights.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return hashlib.sha256(f"{json.dumps(acts, sort_keys=True)} {weights.hexdigest()}".encode()).hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def check_declared(architecture: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Check, before a module is made by its description, that it takes no more than what is stored.

    Raises:
        ValueError: it declares more weights, sizes that are no whole numbers above zero, no scale, or bounds
            out of order.
    """
    names = ("obs_dim", "act_dim", "reward_count", "cost_count")
    sizes = {name: architecture[name] for name in names if name in architecture}
    hidden = list(architecture["hidden"])
    for size in [*sizes.values(), *hidden]:
        if type(size) is not int or size < 1:
            raise ValueError(f"a size of {size!r}")
    for name in ("obs_scale", "reward_scale"):
        if not 0 < float(architecture.get(name, 1.0)) < math.inf:
            raise ValueError(f"a {name} of {architecture[name]!r}")
    if "low" in architecture:
        low, high = (torch.tensor(architecture[name]).float() for name in ("low", "high"))
        ordered = low.shape == high.shape and bool(((low < high) & low.isfinite() & high.isfinite()).all())
        if not ordered or low.shape != (sizes["act_dim"],):
            raise ValueError(f"actions from {architecture['low']!r} to {architecture['high']!r}")
        if not 0 < float(architecture["min_std"]) < float(architecture["max_std"]) < math.inf:
            raise ValueError("a floor of the spread that is not below its ceiling")
    stored = sum(value.numel() for value in tensors.values())
    members = sizes.get("reward_count", 1) + sizes.get("cost_count", 0)
    declared = members * sum(a * b for a, b in itertools.pairwise([sizes["obs_dim"], *hidden]))
    if max(declared, *sizes.values()) > stored:
        raise ValueError(f"more than the {stored} weights that are stored")


def described(network: type[Network], architecture: Mapping[str, Any]) -> Network:
    """Return an untrained network by its `architecture`.

    Raises:
        TypeError, ValueError, LookupError: it is not the description of such a network.
    """
    options = dict(architecture)
    if options.pop("kind") != _KINDS[network]:
        raise ValueError(f"expected a {_KINDS[network]}")
    bounds = {name: torch.tensor(options[name]) for name in ("low", "high") if name in options}
    return network(**options | bounds)


def reason(error: Exception) -> str:
    """Return the first line of an error that says something: torch begins with one that announces others."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)


def build_network(
    network: type[Network], architecture: Any, weights: dict[str, Tensor], path: Path, made_by: str
) -> Network:
    """Return the network that a file describes, with the file's weights.

    Raises:
        DamagedFileError: the description is not one of such a network, or the weights do not fit it.
    """
    try:
        check_declared(architecture, weights)
        module = described(network, architecture)
        module.load_state_dict(weights)
    except (*ILL_DESCRIBED, RuntimeError) as error:
        what = f"{path}: weights and architecture do not fit ({reason(error)})"
        raise DamagedFileError(what, f"make it again with: {made_by}") from error
    return module


class LoadedPolicy(NamedTuple):
    """A policy, the critics that an evaluation attacks it with if any, and what is said of them."""

    policy: GaussianPolicy
    critics: Critics | None
    manifest: dict[str, Any]

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Return the mean action of one observation (obs_dim,) or of a batch (B, obs_dim).

        Raises:
            InputError: the observation has another number of coordinates.
        """
        given = torch.as_tensor(np.asarray(obs, dtype=np.float32))
        expected = self.policy.architecture["obs_dim"]
        if given.dim() not in (1, 2) or given.shape[-1] != expected:
            shape = tuple(given.shape)
            raise InputError(f"an observation has shape {shape}", f"this policy takes (..., {expected})")
        with torch.no_grad():
            return self.policy.mean(given).numpy()


def save_policy(
    folder: Path, policy: GaussianPolicy, critics: Critics | None, manifest: dict[str, Any]
) -> None:
    """Write policy.safetensors and manifest.json, to which architecture and digests are added."""
    tensors = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    # a manifest that was read may be handed on: what it says of its own weights is said anew
    kept = {key: value for key, value in manifest.items() if key not in _OF_ONE_FILE}
    full: dict[str, Any] = kept | {"format_version": FORMAT_VERSION, "kind": "policy"}
    full |= {"policy": policy.architecture, "policy_digest": module_digest(policy)}
    if critics is not None:
        tensors |= {f"critics.{name}": value for name, value in critics.state_dict().items()}
        full |= {"critics": critics.architecture, "critics_digest": module_digest(critics)}
    write_tensors(folder / "policy.safetensors", tensors, full)
    write_json(folder / "manifest.json", full)


def load_policy(folder: Path | str, made_by: str = "harden train") -> LoadedPolicy:
    """Read a policy folder.

    Raises:
        MissingInputError: the folder or its file is not there; StorageError: it may not be read.
        DamagedFileError: it is not a policy of harden, or was altered.
    """
    folder = Path(folder)
    with read_errors(folder):
        if not folder.is_dir():
            raise MissingInputError(f"policy folder {folder} is missing", f"make it with: {made_by}")
    path = folder / "policy.safetensors"
    tensors, manifest = read_tensors(path, made_by)
    read_json(folder / "manifest.json", made_by)
    policy = build_network(GaussianPolicy, manifest.get("policy"), _part(tensors, "policy."), path, made_by)
    critics = None
    if "critics" in manifest:
        critics = build_network(Critics, manifest["critics"], _part(tensors, "critics."), path, made_by)
    digests = {"policy_digest": module_digest(policy)}
    if critics is not None:
        digests["critics_digest"] = module_digest(critics)
    return LoadedPolicy(policy.eval(), critics, manifest | digests)


def policy_files(named: Path) -> list[Path]:
    """Return the files that a policy is read from: those of its folder, or the file itself."""
    return [named / "policy.safetensors", named / "manifest.json"] if named.is_dir() else [named]


def critics_files(folder: Path) -> list[Path]:
    """Return the files that critics are read from."""
    return [folder / "critics.safetensors", folder / "manifest.json"]


def require_task(loaded: LoadedPolicy, task: Task, named: str) -> None:
    """Refuse a policy, called `named`, of another task, also where sizes are the same: InputError."""
    given, manifest = loaded.policy.architecture, loaded.manifest
    remedy = "take a policy of that task, or name the policy's own pipeline with -p"
    if (given["obs_dim"], given["act_dim"]) != (task.obs_dim, task.act_dim):
        sizes = f"task '{task.name}' has {task.obs_dim} and {task.act_dim}"
        what = f"{named} takes {given['obs_dim']} coordinates and gives {given['act_dim']}"
        raise InputError(what, f"{sizes}: {remedy}")
    env_id, name = manifest.get("env_id", ""), manifest.get("task", task.name)
    # one environment may be two tasks that differ in their time step
    other = name != task.name and {name, task.name} <= TASKS.keys()
    if other or (env_id and task.env_id and env_id != task.env_id):
        own = f"'{task.name}' ({task.env_id or 'data only'})"
        raise InputError(f"{named} is of task '{name}' ({env_id}), not of {own}", remedy)


def save_critics(folder: Path, critics: Critics, manifest: dict[str, Any]) -> None:
    """Write critics to `folder`: critics.safetensors and manifest.json."""
    full = {"format_version": FORMAT_VERSION, "kind": "critics"} | manifest
    full |= {"critics": critics.architecture, "critics_digest": module_digest(critics)}
    write_tensors(folder / "critics.safetensors", critics.state_dict(), full)
    write_json(folder / "manifest.json", full)


def load_critics(folder: Path | str, made_by: str = "harden fit-critics") -> tuple[Critics, dict[str, Any]]:
    """Read a critics folder.

    Raises:
        MissingInputError: the folder or its file is not there; StorageError: it may not be read.
        DamagedFileError: they are not critics of harden, or were altered.
    """
    path = Path(folder) / "critics.safetensors"
    tensors, manifest = read_tensors(path, made_by)
    critics = build_network(Critics, manifest.get("critics"), tensors, path, made_by)
    return critics, manifest | {"critics_digest": module_digest(critics)}
