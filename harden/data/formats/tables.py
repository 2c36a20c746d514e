"""Tables: CSV and Parquet by pyarrow, LeRobot's folders of Parquet, and NumPy's npz."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harden.data.formats.columns import Column, Part, natural
from harden.data.formats.log import LogFile
from harden.errors import DamagedFileError, InputError
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
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise InputError("pyarrow is not installed", "install it with: pip install 'harden[logs]'") from None
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
    yield Part(where, _columns(log, arrow, table.schema, table.column), whole)


def read_parquet(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the one part of a Parquet file; a column is read when it is asked for."""
    arrow = _package()
    open_regular(path).close()
    file = arrow.parquet.ParquetFile(arrow.OSFile(str(path)))

    def read(name: str) -> Any:
        return file.read([name], use_threads=False).column(name)

    yield Part(where, _columns(log, arrow, file.schema_arrow, read), whole)


def _columns(log: LogFile, arrow: Any, schema: Any, read: Any) -> dict[str, Column]:
    types, columns = arrow.types, {}
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise InputError(f"{log.path} has two columns called {name!r}", "name each once")
    numbers = ("integer", "floating", "boolean", "decimal", "temporal", "null")
    for field in schema:
        kind, axes = field.type, 0
        while _is_list(kind):
            kind, axes = kind.value_type, axes + 1
        kind = kind.value_type if types.is_dictionary(kind) else kind
        word = "text" if types.is_string(kind) or types.is_large_string(kind) else str(kind)
        if any(getattr(types, f"is_{name}")(kind) for name in numbers):
            word = "number"
        columns[field.name] = Column(word, axes, partial(_values, log, arrow, field.name, read))
    return columns


def _is_list(kind: Any) -> bool:
    return hasattr(kind, "value_type") and not hasattr(kind, "index_type")


def _values(log: LogFile, arrow: Any, name: str, read: Any) -> np.ndarray:
    """Return a column of Arrow's as an array; what is null in it is NaN."""
    column, widths, types = read(name).combine_chunks(), list[int](), arrow.types
    rows = len(column)
    while _is_list(column.type):
        lengths = arrow.compute.list_value_length(column).unique().to_pylist()
        if len(lengths) > 1 or None in lengths:
            raise DamagedFileError(f"{log.path}: '{name}' holds vectors of different lengths, or none")
        widths += lengths or [0]
        column = column.flatten()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_temporal(column.type):
        column = column.cast(arrow.int64())
    if column.null_count and (types.is_string(column.type) or types.is_boolean(column.type)):
        raise DamagedFileError(f"{log.path}: '{name}' lacks values")
    if column.null_count or types.is_decimal(column.type):
        column = column.cast(arrow.float64())
    values = column.to_numpy(zero_copy_only=False)
    return (values.astype(str) if values.dtype == object else values).reshape(rows, *widths)


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
            rows += len(part.columns["index"].read()) if "index" in part.columns else 0
            yield part
    if rows != info.get("total_frames"):
        raise DamagedFileError(f"{path} holds {rows:,} frames, its info says {info.get('total_frames')!r}")


def read_npz(log: LogFile, path: Path, where: str = "", whole: bool = False) -> Iterator[Part]:
    """Yield the one part of a file of arrays by name, as `numpy.savez` writes it; nothing is unpickled."""
    open_regular(path).close()
    kinds, columns = dict.fromkeys("fiub", "number") | {"U": "text"}, {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                values = arrays[name]
            except ValueError:
                # it is refused where it is asked for
                columns[name] = Column("pickled objects", 0, partial(np.empty, 0))
                continue
            if isinstance(values, np.ndarray) and values.ndim:
                kind = kinds.get(values.dtype.kind, f"{values.dtype}")
                columns[name] = Column(kind, values.ndim - 1, partial(np.asarray, values))
    yield Part(where, columns, whole)
