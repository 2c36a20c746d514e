"""The store: the only part that reads and writes HDF5."""

from harden.data.convert import export_data as export_data
from harden.data.convert import preview as preview
from harden.data.convert import read_log as read_log
from harden.data.convert import store_log as store_log
from harden.data.dataset import Dataset as Dataset
from harden.data.dataset import DatasetWriter as DatasetWriter
from harden.data.dataset import open_dataset as open_dataset
from harden.data.edit import filter_episodes as filter_episodes
from harden.data.edit import merge as merge
from harden.data.edit import repair as repair
from harden.data.edit import split as split
from harden.data.episodes import summarise as summarise
from harden.data.formats.columns import parse_columns as parse_columns
from harden.data.formats.log import ImportOptions as ImportOptions
from harden.data.manifest import DatasetInfo as DatasetInfo
from harden.data.manifest import ShardInfo as ShardInfo
from harden.data.manifest import data_files as data_files
from harden.data.manifest import shard_files as shard_files
from harden.data.targets import TargetsHeader as TargetsHeader
from harden.data.targets import read_targets as read_targets
from harden.data.targets import write_targets as write_targets
