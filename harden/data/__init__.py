"""The store: the only part that reads and writes HDF5."""

from harden.data.manifest import DatasetInfo, ShardInfo
from harden.data.store import Dataset, DatasetWriter, open_dataset
from harden.data.targets import TargetsHeader, read_targets, write_targets

__all__ = [
    "Dataset",
    "DatasetInfo",
    "DatasetWriter",
    "ShardInfo",
    "TargetsHeader",
    "open_dataset",
    "read_targets",
    "write_targets",
]
