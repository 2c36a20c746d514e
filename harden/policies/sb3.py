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
from harden.policies.foreign import ForeignPolicy, call_limited
from harden.policies.reading import ACTIVATIONS, Reading
from harden.policies.state_dict import from_parameters
from harden.policies.worker import MOST_BYTES, MOST_NUMBERS

_OWN_CLASS = re.compile(r"(stable_baselines3|sb3_contrib)\.")
_REMEDY = "a TorchScript or ONNX file of it, or a function module:model.predict, needs nothing to be known"


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise DamagedFileError(f"{archive.filename}: {name} has {size:,} bytes, more than {MOST_BYTES:,}")
    return archive.read(name)


def _text(value: Any) -> dict[str, str]:
    """Return a dictionary's parts as text, without those that are pickled."""
    return {str(name): str(part) for name, part in value.items() if name not in (":type:", ":serialized:")}


def read_zip(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the parameters in a zip, float32, and {"class", "options", "space"} of them as text.

    Raises:
        DamagedFileError: it is none of Stable-Baselines3; InputError: it holds far more than a policy.
    """
    what = f"{path} can't be read as a zip that model.save of Stable-Baselines3 wrote"
    with foreign_errors(what, kind=DamagedFileError), zipfile.ZipFile(path) as archive:
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


def _bounds(told: dict[str, Any], path: Path) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest action of the space that a zip tells of in text."""
    with foreign_errors(f"{path}: its action space can't be read as a Box of one dimension", _REMEDY):
        ends = (told["space"][name].strip("[]").split() for name in ("low", "high"))
        low, high = (torch.tensor([float(number) for number in end]) for end in ends)
        if low.shape != high.shape or not bool((low < high).all()):
            raise ValueError(f"from {low.tolist()} to {high.tolist()}")
        return low, high


def open_sb3(path: Path, reading: Reading, bounds: Bounds, obs: Tensor) -> ForeignPolicy:
    """Read the policy in a zip of Stable-Baselines3, in a child process under limits of time and memory.

    Arguments and errors are those of `open_foreign`; one that is more than an MLP of the library's own is
    refused.
    """
    arrays, told = call_limited(path, read_zip)
    options = told["options"]
    extractor = options.get("features_extractor_class", "FlattenExtractor'>")
    activation = None
    if "activation_fn" in options:
        found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", options["activation_fn"])
        activation = found[1].lower() if found else "unknown"
    for name, value, known in (
        ("policy class", told["class"] or "unknown", bool(_OWN_CLASS.match(told["class"]))),
        ("features extractor", extractor, extractor.endswith("FlattenExtractor'>")),
        ("activation", options.get("activation_fn"), activation in (None, *ACTIVATIONS)),
    ):
        if not known:
            raise InputError(f"{path} has a {name} of its own ({value})", _REMEDY)
    squash = "tanh" if options.get("squash_output") == "True" else None
    reading = reading._replace(activation=reading.activation or activation, squash=reading.squash or squash)
    with foreign_errors(f"{path}: its clip_mean can't be read", kind=DamagedFileError):
        clip_mean = float(options.get("clip_mean", 2.0))
    state, limits = {name: torch.from_numpy(array) for name, array in arrays.items()}, _bounds(told, path)
    return from_parameters("sb3", path, state, reading, bounds, obs.shape[1], limits, clip_mean)
