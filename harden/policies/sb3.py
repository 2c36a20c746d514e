"""Policies as Stable-Baselines3 saves them: the weights in the zip, and what its JSON says in plain text.

Nothing is unpickled: the weights are loaded as numbers alone, and what the JSON holds as a pickle in base64
is left where it is. Beside each such pickle the library writes its parts as text, which say enough.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.policies.adopt import Bounds
from harden.policies.foreign import ForeignPolicy, LimitedProcess, check_file
from harden.policies.reading import ACTIVATIONS, Reading
from harden.policies.state_dict import Facts, from_parameters
from harden.policies.worker import MOST_BYTES, MOST_NUMBERS

_OWN_CLASS = re.compile(r"(stable_baselines3|sb3_contrib)\.")
_REMEDY = "a TorchScript or ONNX file of it, or a function module:model.predict, needs nothing to be known"


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise DamagedFileError(
            f"{archive.filename}: {name} has {size:,} bytes", f"at most {MOST_BYTES:,} are read"
        )
    return archive.read(name)


def _text(value: Any) -> dict[str, str]:
    """Return a dictionary's parts as text, without those that are pickled."""
    return {str(name): str(part) for name, part in value.items() if name not in (":type:", ":serialized:")}


def read_zip(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the parameters in a zip, float32, and {"class", "options", "space"} of them as text.

    Raises:
        DamagedFileError: it is none of Stable-Baselines3; InputError: it holds far more than a policy.
    """
    remedy = "name a zip that model.save of Stable-Baselines3 wrote"
    unreadable = foreign_errors(
        f"{path} can't be read as a zip of Stable-Baselines3", remedy, DamagedFileError
    )
    with unreadable, zipfile.ZipFile(path) as archive:
        about, weights = json.loads(_entry(archive, "data")), io.BytesIO(_entry(archive, "policy.pth"))
        state = torch.load(weights, map_location="cpu", weights_only=True)
        named = {str(name): value for name, value in state.items()}
        told = {
            "class": _text(about["policy_class"]).get("__module__", ""),
            "options": _text(about.get("policy_kwargs", {})),
            "space": _text(about["action_space"]),
        }
        if sum(value.numel() for value in named.values()) > MOST_NUMBERS:
            raise InputError(f"{path} holds more than {MOST_NUMBERS:,} numbers", "a policy is far smaller")
        return {name: value.float().contiguous().numpy() for name, value in named.items()}, told


def _bounds(space: dict[str, str], path: Path) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest action of the space that a zip tells of in text."""
    unreadable = f"{path}: its action space can't be read"
    with foreign_errors(unreadable, f"it has to be a Box of one dimension; {_REMEDY}"):
        low, high = (
            torch.tensor([float(n) for n in space[name].strip("[]").split()]) for name in ("low", "high")
        )
        if low.shape != high.shape or not bool((low < high).all()):
            raise InputError(unreadable, _REMEDY)
        return low, high


def _facts(told: dict[str, Any], path: Path) -> Facts:
    """Return what a zip says of its parameters; InputError: a policy that Stable-Baselines3 does not have."""
    options = told["options"]
    if not _OWN_CLASS.match(told["class"]):
        raise InputError(f"{path} holds a policy class of its own ({told['class'] or 'unknown'})", _REMEDY)
    extractor = options.get("features_extractor_class", "FlattenExtractor'>")
    if not extractor.endswith("FlattenExtractor'>"):
        raise InputError(f"{path} has a features extractor of its own ({extractor})", _REMEDY)
    activation = None
    if "activation_fn" in options:
        found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", options["activation_fn"])
        activation = found[1].lower() if found else ""
        if activation not in ACTIVATIONS:
            raise InputError(f"{path} has the activation {options['activation_fn']}", _REMEDY)
    squash = "tanh" if options.get("squash_output") == "True" else None
    with foreign_errors(f"{path}: its clip_mean can't be read", kind=DamagedFileError):
        clip_mean = float(options.get("clip_mean", 2.0))
    return Facts(activation, squash, _bounds(told["space"], path), clip_mean)


def open_sb3(path: Path, reading: Reading, bounds: Bounds, obs_dim: int) -> ForeignPolicy:
    """Read the policy in a zip of Stable-Baselines3, in a child process under limits of time and memory.

    Args:
        reading: as in `from_parameters`.
        bounds: of the task's action space.
        obs_dim: of the task.

    Raises:
        MissingInputError: no such file; DamagedFileError: no such zip; InputError: as `from_parameters`, or
            a policy that is more than an MLP of Stable-Baselines3's own.
    """
    check_file(path)
    process = LimitedProcess(path, "harden.policies.sb3")
    try:
        arrays, told = process.ask("load_sb3")
    finally:
        process.child.close()
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return from_parameters("sb3", path, state, _facts(told, path), reading, bounds, obs_dim)
