"""targets.h5: what the E-step hands to the M-step, with the digests of what it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from harden.data.hdf5 import attributes, hdf5_image, numbers, open_hdf5
from harden.errors import DamagedFileError, foreign_errors
from harden.storage.files import write_whole
from harden.types import Targets

FORMAT_VERSION = 2
_LAYOUT = ("observations", "actions", "weights", "old_mean", "old_std")
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
        settings: the pipeline's sections that they depend on, as JSON.
        kl: KL(q* || policy_old) of the weights, nats.
        converged: whether the dual's search reached its tolerance.
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
    settings: str
    kl: float
    converged: bool


def write_targets(path: Path, targets: Targets, header: TargetsHeader) -> None:
    """Write targets whole."""
    values = (column.detach().cpu().numpy().astype(np.float32, copy=False) for column in targets)
    arrays = dict(zip(_LAYOUT, values, strict=True))
    header = _typed(header._asdict())
    described = {"format_version": FORMAT_VERSION, "digest": _digest(arrays, header)} | header._asdict()
    image = hdf5_image(arrays, described)
    write_whole(path, lambda aside: aside.write_bytes(image))


def _typed(values: dict[str, Any]) -> TargetsHeader:
    return TargetsHeader(**{name: kind(values[name]) for name, kind in get_type_hints(TargetsHeader).items()})


def _digest(arrays: dict[str, np.ndarray], header: TargetsHeader) -> str:
    """Return the sha256 of targets and their header."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, values in arrays.items():
        digest.update(f"{name}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def read_header(path: Path) -> TargetsHeader:
    """Read what is written beside the targets; errors as `read_targets`, which looks at their values too."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, np.ndarray], TargetsHeader]:
    with open_hdf5(path, f"make them with: {_MADE_BY}") as file:
        values = attributes(file, ("format_version", "digest", *TargetsHeader._fields))
        arrays = {name: numbers(file, name)[()].astype(np.float32, copy=False) for name in _LAYOUT}
    with foreign_errors(f"{path} is not whole targets", f"make them with: {_MADE_BY}", DamagedFileError):
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {values['format_version']}, this harden reads {FORMAT_VERSION}")
        header = _typed(values)
        if values["digest"] != _digest(arrays, header):
            raise ValueError("they do not have the digest that was written with them")
    return arrays, header


def read_targets(path: Path) -> tuple[Targets, TargetsHeader]:
    """Read what `write_targets` wrote; MissingInputError: not there; DamagedFileError: other than that."""
    # a header is read without waiting for it
    import torch

    arrays, header = _read(path)
    with foreign_errors(f"{path} is not whole targets", f"make them with: {_MADE_BY}", DamagedFileError):
        targets = Targets(*(torch.from_numpy(array) for array in arrays.values()))
        states, particles, act_dim = targets.actions.shape
        shapes = [tuple(column.shape) for column in targets]
        wanted = [(states, targets.obs.shape[1]), (states, particles, act_dim), (states, particles)]
        if not states or shapes != [*wanted, (states, act_dim), (states, act_dim)]:
            raise ValueError(f"arrays of shapes {shapes}")
        whole = all(bool(column.isfinite().all()) for column in targets)
        if not whole or not bool((targets.weights.sum(1) - 1).abs().max() < 1e-3):
            raise ValueError("NaN, or weights that do not sum to one")
    return targets, header
