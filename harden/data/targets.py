"""targets.h5: what the E-step hands to the M-step, with the digests of what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch

from harden.data.hdf5 import attributes, hdf5_image, numbers, open_hdf5, read_array
from harden.errors import DamagedFileError
from harden.storage.files import write_whole
from harden.types import Targets

# 1 had no digest
FORMAT_VERSION = 2
_LAYOUT = {"observations": 2, "actions": 3, "weights": 2, "old_mean": 2, "old_std": 2}
_MADE_BY = "harden e-step"


class TargetsHeader(NamedTuple):
    """What is written beside the targets.

    Args:
        eta, lam: the multipliers that the weights used.
        eta_exact, lam_exact: the dual's minimiser.
        kappa, kl_bound: the E-step's thresholds.
        expected_cost: sum over particles of q* Q_c, mean over states.
        status: "feasible", or "infeasible" where no multiplier within bounds meets kappa.
        seed, round: the place of the random stream.
        data_digest, policy_digest, critics_digest: of what they were made from.
        settings: the pipeline's sections that they depend on, as JSON; "" in files older than this.
        kl: KL(q* || policy_old) of the weights, nats; converged: whether the dual's search reached its
            tolerance. Files older than these say nan and True.
    """

    eta: float
    lam: float
    eta_exact: float
    lam_exact: float
    kappa: float
    kl_bound: float
    expected_cost: float
    status: str
    seed: int
    round: int
    data_digest: str
    policy_digest: str
    critics_digest: str
    settings: str = ""
    kl: float = float("nan")
    converged: bool = True


def write_targets(path: Path, targets: Targets, header: TargetsHeader) -> None:
    """Write targets whole."""
    values = (column.detach().cpu().numpy().astype(np.float32, copy=False) for column in targets)
    arrays = dict(zip(_LAYOUT, values, strict=True))
    header = _typed(header._asdict())
    said = header._asdict() | {"digest": _digest(arrays, header)}
    image = hdf5_image(arrays, {"format_version": FORMAT_VERSION} | said)
    write_whole(path, lambda aside: aside.write_bytes(image))


def _typed(said: dict[str, Any]) -> TargetsHeader:
    return TargetsHeader(**{name: kind(said[name]) for name, kind in get_type_hints(TargetsHeader).items()})


def _digest(arrays: dict[str, np.ndarray], header: TargetsHeader) -> str:
    """Return the sha256 of targets and all that is said of them."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, values in arrays.items():
        digest.update(f"{name}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def read_targets(path: Path) -> tuple[Targets, TargetsHeader]:
    """Read what `write_targets` wrote.

    Raises:
        MissingInputError: not there.
        DamagedFileError: not targets, other than what was written, of shapes that do not fit, NaN, or weights
            that do not sum to one.
    """
    again = f"make it again with: {_MADE_BY}"
    names = ("format_version", "digest", *TargetsHeader._fields)
    with open_hdf5(path, _MADE_BY) as file:
        found = TargetsHeader._field_defaults | attributes(file, names)
        version = found.pop("format_version", None)
        if version not in (1, FORMAT_VERSION) or "weights" not in set(file):
            raise DamagedFileError(f"{path} is not a targets file", f"make one with: {_MADE_BY}")
        arrays = {}
        for name, ndim in _LAYOUT.items():
            item = numbers(file, name)
            if item.ndim != ndim:
                raise DamagedFileError(
                    f"{path}: '{name}' has shape {item.shape}, expected {ndim} axes", again
                )
            arrays[name] = read_array(item, np.float32)
    digest = found.pop("digest", None)
    try:
        header = _typed(found)
        if version != 1 and digest != _digest(arrays, header):
            raise ValueError("it does not have the digest that was written with it")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedFileError(
            f"{path} is not a targets file ({error})", f"make one with: {_MADE_BY}"
        ) from error
    targets = Targets(*(torch.from_numpy(values) for values in arrays.values()))
    states, particles, act_dim = targets.actions.shape
    fits = (
        len(targets.obs) == states
        and targets.weights.shape == (states, particles)
        and targets.old_mean.shape == targets.old_std.shape == (states, act_dim)
        and states > 0
    )
    if not fits:
        raise DamagedFileError(f"{path}: arrays of shapes that do not fit", again)
    whole = all(bool(column.isfinite().all()) for column in targets)
    if not whole or not bool((targets.weights.sum(1) - 1).abs().max() < 1e-3):
        raise DamagedFileError(f"{path} holds NaN, or weights that do not sum to one", again)
    return targets, header
