"""The networks."""

from harden.nets.critics import Critics, QEnsemble, StateValues
from harden.nets.policy import GaussianPolicy

__all__ = ["Critics", "GaussianPolicy", "QEnsemble", "StateValues"]
