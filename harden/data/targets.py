"""targets.h5: what the E-step hands to the M-step, with the digests of what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, get_type_hints

import numpy as np
import torch

from harden.data.hdf5 import attribute, open_hdf5, read_array, write_hdf5
from harden.errors import DamagedFileError
from harden.files import write_whole
from harden.types import Targets

FORMAT_VERSION = 1
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
    attributes = {"format_version": FORMAT_VERSION} | header._asdict()
    write_whole(path, lambda aside: write_hdf5(aside, arrays, attributes))


def read_targets(path: Path) -> tuple[Targets, TargetsHeader]:
    """Read what `write_targets` wrote.

    Raises:
        MissingInputError: not there.
        DamagedFileError: not targets, of shapes that do not fit, NaN, or weights that do not sum to one.
    """
    everything = slice(None)
    with open_hdf5(path, _MADE_BY) as file:
        if attribute(file, "format_version", None) != FORMAT_VERSION or "weights" not in file:
            raise DamagedFileError(f"{path} is not a targets file", f"make one with: {_MADE_BY}")
        columns = [read_array(file, name, np.float32, everything, ndim) for name, ndim in _LAYOUT.items()]
        usual = TargetsHeader._field_defaults
        found = {name: attribute(file, name, usual.get(name)) for name in TargetsHeader._fields}
    try:
        header = TargetsHeader(**{n: kind(found[n]) for n, kind in get_type_hints(TargetsHeader).items()})
    except (TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{path} is not a targets file ({error})", f"make one with: {_MADE_BY}"
        ) from error
    targets = Targets(*(torch.from_numpy(column) for column in columns))
    states, particles, act_dim = targets.actions.shape
    fits = (
        len(targets.obs) == states
        and targets.weights.shape == (states, particles)
        and targets.old_mean.shape == targets.old_std.shape == (states, act_dim)
        and states > 0
    )
    if not fits:
        raise DamagedFileError(f"{path}: arrays of shapes that do not fit", f"make it again with: {_MADE_BY}")
    whole = all(bool(column.isfinite().all()) for column in targets)
    if not whole or not bool((targets.weights.sum(1) - 1).abs().max() < 1e-3):
        raise DamagedFileError(
            f"{path} holds NaN, or weights that do not sum to one", f"make it again with: {_MADE_BY}"
        )
    return targets, header
