"""The store: the only part that reads and writes HDF5."""

from harden.data.convert import (
    READERS,
    WRITERS,
    Imported,
    detect_format,
    export_data,
    import_data,
    preview,
    read_log,
)
from harden.data.dataset import Dataset, DatasetWriter, open_dataset
from harden.data.edit import Repaired, filter_episodes, merge, repair, split
from harden.data.episodes import summarise
from harden.data.formats.columns import parse_columns
from harden.data.formats.log import ImportOptions
from harden.data.manifest import DatasetInfo, ShardInfo, data_files, shard_files
from harden.data.targets import TargetsHeader, read_targets, write_targets

__all__ = [
    "READERS",
    "WRITERS",
    "Dataset",
    "DatasetInfo",
    "DatasetWriter",
    "ImportOptions",
    "Imported",
    "Repaired",
    "ShardInfo",
    "TargetsHeader",
    "data_files",
    "detect_format",
    "export_data",
    "filter_episodes",
    "import_data",
    "merge",
    "open_dataset",
    "parse_columns",
    "preview",
    "read_log",
    "read_targets",
    "repair",
    "shard_files",
    "split",
    "summarise",
    "write_targets",
]
