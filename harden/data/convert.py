"""Data sets from and to the formats of others: one row a format."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harden.child import answer_of_fork
from harden.data.dataset import Dataset, DatasetWriter
from harden.data.episodes import summarise
from harden.data.formats.columns import Part, natural, read_columns
from harden.data.formats.hdf5 import read_hdf5, write_dsrl
from harden.data.formats.log import ImportOptions, Log, LogFile
from harden.data.formats.minari import find_minari, read_minari, write_minari
from harden.data.formats.tables import read_csv, read_lerobot, read_npz, read_parquet
from harden.data.manifest import Attributes, DatasetInfo, provenance_of
from harden.data.shard import describe
from harden.errors import DamagedFileError, InputError, MissingInputError, foreign_errors
from harden.storage.files import open_regular
from harden.storage.folders import require_new, whole_folder
from harden.types import Transitions

READERS: dict[str, Callable[..., Iterator[Part]]] = {
    "hdf5": read_hdf5,
    "dsrl": read_hdf5,
    "d4rl": read_hdf5,
    "robomimic": read_hdf5,
    "minari": read_minari,
    "lerobot": read_lerobot,
    "parquet": read_parquet,
    "csv": read_csv,
    "npz": read_npz,
}
WRITERS: dict[str, Callable[[Dataset, Path], list[str]]] = {"dsrl": write_dsrl, "minari": write_minari}
# how files begin, and what is to be done with those that are not read
_BEGIN = {b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet", b"PK\x03\x04": "npz"}
_UNREAD = {
    b"ARROW1": ("Arrow (Feather)", "write it as Parquet"),
    b"FEA1": ("Feather", "write it as Parquet"),
    b"{": ("JSON", "write it as Parquet or CSV, with pandas.read_json (lines=True)"),
    b"#ROSBAG": ("a ROS bag", "write its topics as one table, to Parquet or CSV"),
    b"\x89MCAP": ("MCAP", "write its topics as one table, to Parquet or CSV"),
    b"MATLAB 5.0": ("MATLAB before 7.3", "save it with -v7.3, or write it as npz with scipy.io.loadmat"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it first"),
    b"BZh": ("compressed by bzip2", "unpack it first"),
    b"\xfd7zXZ": ("compressed by xz", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "unpack it first"),
    b"\x93NUMPY": ("NumPy's .npy, one array", "write all arrays of the log with numpy.savez"),
    b"\x80": ("a Python pickle, which could run code", "write it as Parquet or npz where you trust it"),
}
_SUFFIXES = {".hdf5": "hdf5", ".h5": "hdf5", ".parquet": "parquet", ".npz": "npz"}
_SUFFIXES |= {".csv": "csv", ".tsv": "csv"}
# what a file may take: a part that depends on its size, and one that does not
_SECONDS, _SECONDS_A_BYTE = 60.0, 1e-6
_ROOM, _ROOM_A_BYTE = 1 << 31, 100


def _files(path: Path) -> list[Path]:
    """Return the files of a log that is one file an episode: those of a folder, or that a pattern names."""
    if not path.exists() and glob.has_magic(str(path)):
        return sorted(map(Path, glob.glob(str(path))), key=lambda file: natural(str(file)))
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES]
        return sorted(files, key=lambda file: natural(file.name))
    return []


def detect_format(path: Path) -> str:
    """Return the format of a foreign log, by how it begins, and where it is text or a folder by its names.

    Raises:
        MissingInputError, DamagedFileError: as `open_regular`; InputError: it can't be told, or is not read.
    """
    if (path / "manifest.json").is_file():
        raise InputError(f"{path} is a data set of harden already", "use it as it is")
    log = find_minari(path)
    if log.is_file() and log.with_name("metadata.json").exists():
        return "minari"
    if (path / "meta/info.json").is_file():
        return "lerobot"
    if files := _files(path):
        kinds = {detect_format(file) for file in files}
        if len(kinds) > 1:
            raise InputError(f"{path}: files of {', '.join(sorted(kinds))}", "name one kind with a pattern")
        return kinds.pop()
    if path.is_dir():
        raise InputError(f"{path} holds no log", f"name a file, or a folder of {', '.join(_SUFFIXES)}")
    try:
        with open_regular(path) as file:
            begin = file.read(4096)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{path} is missing", "name a file, a folder of them, or a pattern") from None
    for head, (name, remedy) in _UNREAD.items():
        if begin.startswith(head):
            remedy += ": docs/your-own-data.md, 'Logs in another format'"
            raise InputError(f"{path} is {name}", remedy)
    begun = (name for head, name in _BEGIN.items() if begin.startswith(head))
    kind = next(begun, _SUFFIXES.get(path.suffix.lower()))
    # a user's block may come before HDF5's own beginning
    if kind is None and not h5py.is_hdf5(path):
        what = f"{path} is none of the kinds of log that are read"
        raise InputError(what, f"name it with --from where it is: {', '.join(READERS)}")
    return kind or "hdf5"


def read_log(path: Path, source: str | None, options: ImportOptions) -> Log:
    """Read a foreign log in a process of its own, with limits of time and memory.

    Args:
        path: a file, a folder, or a pattern of file names, of which each is an episode.
        source: one of READERS, detected where not given.

    Raises:
        MissingInputError, DamagedFileError: it is not there, or not of that format.
        InputError: values that nothing may learn from, what can be read in two ways or is not told.
    """
    source = source or detect_format(path)
    if source == "minari":
        path = find_minari(path)
    files = [] if source == "lerobot" else _files(path)
    reader, size = READERS[source], sum(_size(file) for file in files or [path])

    def parts(log: LogFile) -> Iterator[Part]:
        for file in files:
            yield from reader(log, file, f": {file.name}", True)
        if not files:
            yield from reader(log, path)

    def read() -> tuple[Attributes, list[np.ndarray], list[str]]:
        log = LogFile(path, options)
        stated, data = read_columns(log, parts(log))
        return stated, [column.numpy() for column in data], log.notes

    with foreign_errors(f"{path} can't be read", kind=DamagedFileError):
        limits = _SECONDS + size * _SECONDS_A_BYTE, _ROOM + size * _ROOM_A_BYTE
        stated, arrays, notes = answer_of_fork(read, *limits)
    return Log(source, stated, Transitions(*map(torch.from_numpy, arrays)), notes)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def store_log(log: Log, out: Path) -> DatasetInfo:
    """Make a data set of a log that was read; InputError: something is at `out`."""
    with whole_folder(out) as aside, DatasetWriter(aside, log.info) as writer:
        writer.append(log.data, **provenance_of(log.stated)._asdict())
    return writer.info


def preview(log: Log) -> dict[str, Any]:
    """Return what `store_log` would make, as `summarise` has it."""
    shard = describe("shard", "", log.data, provenance_of(log.stated))
    return summarise(log.info._replace(shards=(shard,)), [(shard, log.data)])


def export_data(path: Path, out: Path, target: str) -> list[str]:
    """Write a data set in a foreign format, which it has to fit; returns what is lost, one line each."""
    require_new(out)
    return WRITERS[target](Dataset(path), out)
