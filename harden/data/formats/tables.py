"""Tables: CSV and Parquet by pyarrow, LeRobot's folders of Parquet, and NumPy's npz."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harden.data.formats.columns import Part, natural
from harden.data.formats.log import LogFile
from harden.errors import DamagedFileError, InputError, describe_error, require_extra
from harden.storage.files import open_regular, read_json

# CSV: what a column holds is told by so much of the file
_MOST_BLOCK = 1 << 30
_LEROBOT = {
    "obs": "observation.state",
    "action": "action",
    "reward": "next.reward",
    "episode": "episode_index",
    "step": "frame_index",
}


def _package() -> Any:
    """Return pyarrow; InputError: it is not installed."""
    require_extra("logs", "pyarrow", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet")
    import pyarrow

    return pyarrow


def read_csv(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the one part of a text file of columns with their names in the first line.

    Commas, semicolons or tabs are between the columns, whichever the first line has most of. What is empty,
    NA or NaN is no number.
    """
    arrow = _package()
    with open_regular(path) as file:
        head = file.readline(1 << 20)
        size = path.stat().st_size
    divider = max(",;\t", key=lambda sign: head.count(sign.encode()))
    table = arrow.csv.read_csv(
        arrow.OSFile(str(path)),
        read_options=arrow.csv.ReadOptions(use_threads=False, block_size=min(size + 1, _MOST_BLOCK)),
        parse_options=arrow.csv.ParseOptions(delimiter=divider),
    )
    yield Part(where, _arrays(log, arrow, table), whole)


def read_parquet(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the one part of a Parquet file."""
    arrow = _package()
    open_regular(path).close()
    table = arrow.parquet.ParquetFile(arrow.OSFile(str(path))).read(use_threads=False)
    yield Part(where, _arrays(log, arrow, table), whole)


def _arrays(log: LogFile, arrow: Any, table: Any) -> dict[str, np.ndarray | str]:
    """Return a table's columns of numbers, times and text as arrays; of others what they are, in words."""
    names, arrays = table.column_names, dict[str, np.ndarray | str]()
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{log.path} has two columns called {name!r}", "name each once")
        arrays[name] = _array(arrow, table.column(name).combine_chunks())
    return arrays


def _array(arrow: Any, column: Any) -> np.ndarray | str:
    """Return a column of Arrow's as an array, what is null in it as NaN; in words what it holds else."""
    rows, widths, types, kind = len(column), list[int](), arrow.types, str(column.type)
    while hasattr(column.type, "value_type") and not types.is_dictionary(column.type):
        lengths = arrow.compute.list_value_length(column).unique().to_pylist()
        if len(lengths) > 1 or None in lengths:
            return "vectors of different lengths, or none"
        widths += lengths or [0]
        column = column.flatten()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_temporal(column.type):
        column = column.cast(arrow.int64())
    if types.is_string(column.type) or types.is_large_string(column.type):
        return kind if column.null_count or widths else np.array(column.to_pylist())
    try:
        lossless = not column.null_count and not types.is_decimal(column.type)
        values = (column if lossless else column.cast(arrow.float64())).to_numpy(zero_copy_only=False)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        return kind
    return values.reshape(rows, *widths) if values.dtype.kind in "fiub" else kind


def read_lerobot(log: LogFile, path: Path) -> Iterator[Part]:
    """Yield the episodes of a LeRobot data set, of version 2 (a file each) or 3 (several a file)."""
    log.names = _LEROBOT
    info = read_json(path / "meta/info.json", "LeRobot")
    files = sorted((path / "data").rglob("*.parquet"), key=lambda file: natural(str(file)))
    if not isinstance(info, dict) or not files:
        raise DamagedFileError(f"{path} is not a whole LeRobot data set", "it has meta/info.json and data/")
    rows = 0
    for file in files:
        for part in read_parquet(log, file, f": {file.relative_to(path)}", whole=True):
            rows += len(part.columns.get("index", ""))
            yield part
    if rows != info.get("total_frames"):
        raise DamagedFileError(f"{path} holds {rows:,} frames, its info says {info.get('total_frames')!r}")


def read_npz(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the one part of a file of arrays by name, as `numpy.savez` writes it; nothing is unpickled."""
    open_regular(path).close()
    columns = dict[str, np.ndarray | str]()
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                values = arrays[name]
                columns[name] = values if np.ndim(values) else "one value"
            except ValueError as error:
                columns[name] = describe_error(error)
    yield Part(where, columns, whole)
