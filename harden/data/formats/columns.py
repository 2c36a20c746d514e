"""Named columns, whatever file they are in, and the one way from them to transitions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from harden.data.formats.log import DSRL_NAMES, LogFile, find_ends
from harden.data.manifest import Attributes
from harden.data.shard import check_values
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions

NEEDED = ("obs", "action", "reward", "cost")
_VECTORS, _FLAGS = ("obs", "action", "next_obs"), ("terminal", "timeout")
# what the columns of each key are called, the usual names first, in the order in which they are looked for
_CALLED = {
    "next_obs": "next_observations next_observation next_obs obs_next next_states next_state",
    "episode": "episode episodes episode_id episode_index episode_number ep ep_id traj traj_id trajectory "
    "trajectory_id demo demo_id run run_id rollout rollout_id",
    "step": "step steps frame_index frame t time timestep timestamp stamp",
    "terminal": "terminals terminal terminated terminations termination dones done next.done is_terminal",
    "timeout": "timeouts timeout truncated truncations truncation is_truncated",
    "reward": "rewards reward next.reward rew r",
    "cost": "costs cost next.cost infos/cost info.cost c",
    "action": "actions action act a u",
    "obs": "observations observation obs observation.state states state o s",
}
# columns of these names are true at any end, or at those of the dynamics alone: nobody can tell which
_ANY_END = ("dones", "done", "next.done")
# an interval between rows is a gap when it is so much longer than the usual one
_GAP = 1.5
# rows of zeros or NaN, and of any other numbers, that are more than a robot at rest would leave
_LEAST_EMPTY, _LEAST_ALIKE = 2, 10
_SHOWN = 40
# in the order in which a proposal has them
_KEYS = dict.fromkeys((*NEEDED, *_CALLED))


# an array of a row's values each, or in words what is there instead
Column = np.ndarray | str


class Part(NamedTuple):
    """Rows of a foreign log that are read together: a file of it, or the group of an episode.

    Args:
        where: of the log it is, for errors; "" for all of it.
        whole: whether an episode ends with it.
    """

    where: str
    columns: Mapping[str, Column]
    whole: bool


def _is_vector(column: Column) -> bool:
    """Return whether a column may be part of a vector: numbers, one or several a row."""
    return isinstance(column, np.ndarray) and column.dtype.kind in "fiub" and column.ndim in (1, 2)


def _holds(column: Column, key: str) -> bool:
    """Return whether a column may be what a key of one value a row says."""
    kinds = "fiubU" if key == "episode" else "fiub"
    return isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in kinds


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """Return which columns are what, of words such as "obs=pos_*+vel_*,action=a_*"; InputError: not such."""
    mapping: dict[str, str] = {}
    for word in (part.strip() for text in words for part in text.split(",") if part.strip()):
        key, equals, pattern = word.partition("=")
        if key not in _CALLED or not equals or key in mapping:
            remedy = f"write each once, as in obs=pos_*+vel_*,action=a_*; the keys are: {', '.join(_KEYS)}"
            raise InputError(f"--map: {word!r} is not KEY=COLUMN", remedy)
        mapping[key] = pattern
    return mapping


def natural(name: str) -> list[tuple[int, str]]:
    """Return what names are sorted by so that 2 comes before 10."""
    parts = re.split("([0-9]+)", name)
    return [(len(digits := part.lstrip("0")), digits) if i % 2 else (0, part) for i, part in enumerate(parts)]


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means: itself, or those that fit; * is any letters, ? one, + "and"."""
    names = list(names)
    if pattern in names:
        return [pattern]
    if "+" in pattern:
        return [name for part in pattern.split("+") for name in _matching(part, names)]
    fits = re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL).fullmatch
    return sorted(filter(fits, names), key=natural)


def read_columns(log: LogFile, parts: Iterable[Part]) -> tuple[Attributes, Transitions]:
    """Make transitions of named columns; returns also what the log says of itself.

    A column of one row more than the actions holds what was there before the first step as well: of
    observations each row is then followed by the next one, of anything else the first row is left out. Last
    rows of time limits that are followed by themselves, where no other row is, are no steps, and go. Arrays
    of one axis more than rows have, (episodes, steps, ...), are episodes of equal length.

    Raises:
        DamagedFileError: columns of other shapes or types than what they are to be.
        InputError: columns that are not there, can't be told or are more than one thing, values that
            nothing may learn from, or as `find_ends`.
    """
    chosen: dict[str, str] | None = None
    pieces = list[dict[str, np.ndarray]]()
    for part in parts:
        if chosen is None:
            header = log.header()
            chosen = _choose(log, part)
        arrays = {key: _stack(log, part, key, pattern) for key, pattern in chosen.items() if pattern}
        if arrays["action"].ndim < 3:
            pieces.append(_rows(log, arrays, part.where, part.whole))
            continue
        arrays.pop("episode", None)
        shapes = {key: values.shape for key, values in arrays.items()}
        if len({shape[0] for shape in shapes.values()}) != 1 or min(map(len, shapes.values())) < 2:
            raise DamagedFileError(f"{log.path}{part.where}: {shapes} are not (episodes, steps, ...)")
        for number in range(len(arrays["action"])):
            where = f"{part.where}: episode {number}"
            pieces.append(_rows(log, {key: values[number] for key, values in arrays.items()}, where, True))
    if not pieces:
        raise DamagedFileError(f"{log.path} holds no rows")
    if len({tuple((key, values.shape[1:]) for key, values in piece.items()) for piece in pieces}) != 1:
        raise DamagedFileError(f"{log.path}: episodes of different shapes")
    whole = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    obs, next_obs = whole["obs"], whole.get("next_obs")
    ends = find_ends(log, obs, next_obs, *(whole.get(key) for key in ("terminal", "timeout", "last", "gaps")))
    data = _transitions(whole | dict(zip(("terminal", "timeout"), ends, strict=True)))
    if next_obs is not None and _repeats_last(data):
        log.note(
            f"the last rows of the {int(ends[1].sum())} episodes that the time limit ended, and no others, "
            "are followed by themselves, as robomimic's converter writes them: they are dropped"
        )
        data = _without_last(data)
    if next_obs is None:
        log.note(
            "the file has no next observations: those of the row that follows are taken; "
            f"the last rows of {int(ends[1].sum())} episodes that the time limit ended are dropped, "
            f"the {int(ends[0].sum())} that the dynamics ended keep theirs, and are followed by themselves"
        )
        data = _derive_next(data)
    if not len(data.rewards):
        raise InputError(f"{log.path} holds no episode of which anything can be kept")
    return header, data


def _transitions(arrays: Mapping[str, np.ndarray]) -> Transitions:
    flags = {key: arrays.get(key, np.zeros(len(arrays["obs"]), bool)) for key in _FLAGS}
    known = {"next_obs": arrays["obs"], **arrays, **flags}
    return Transitions(*(torch.from_numpy(known[key]) for key in (*NEEDED, "next_obs", *flags)))


def _stack(log: LogFile, part: Part, key: str, pattern: str) -> np.ndarray:
    """Return the columns that a pattern names side by side, as the file has them."""
    where, names = f"{log.path}{part.where}", _matching(pattern, part.columns)
    usable = [name for name in names if _is_vector(part.columns[name])]
    if pattern in names or not usable:
        usable = names
    elif others := [name for name in names if name not in usable]:
        log.note(f"no vectors of numbers, and left out of {key}: {', '.join(others)}")
    if not usable:
        raise InputError(f"{where} has no column {pattern!r} for {key}", f"it has: {_listed(part.columns)}")
    if key not in _VECTORS and len(usable) > 1:
        raise InputError(f"{where}: {key} is one column, and {pattern!r} is {', '.join(usable)}")
    values = list[np.ndarray]()
    for name in usable:
        column = part.columns[name]
        if isinstance(column, str) or (column.dtype.kind not in "fiub" and not _holds(column, key)):
            kind = column if isinstance(column, str) else column.dtype
            raise DamagedFileError(f"{where}: '{name}' holds {kind}, not numbers")
        values.append(column)
    if len(values) == 1:
        return values[0]
    rows = {name: column.shape[:1] for name, column in zip(usable, values, strict=True)}
    if len(set(rows.values())) != 1 or max(column.ndim for column in values) > 2:
        raise DamagedFileError(f"{where}: {rows} rows of {key}, of at most one axis each, must be as many")
    return np.concatenate([column.reshape(len(column), -1) for column in values], axis=1)


def _listed(names: Iterable[str], ordered: bool = False) -> str:
    """Return names as a list in a line, in natural order unless theirs counts."""
    every = list(names) if ordered else sorted(names, key=natural)
    shown = ", ".join(every[:_SHOWN]) + (f", and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")
    return shown.encode("unicode_escape").decode() or "nothing"


def _rows(log: LogFile, arrays: dict[str, np.ndarray], part: str, whole: bool) -> dict[str, np.ndarray]:
    """Return what is one row a step, in the types of memory and in the order of time.

    Beside the arrays that were given there are `last` and `gaps` where they are known, as for `find_ends`.
    """
    where, rows = f"{log.path}{part}", len(arrays["action"])
    if "next_obs" not in arrays and len(arrays["obs"]) == rows + 1:
        # one observation more is that of one episode's end
        arrays, whole = arrays | {"obs": arrays["obs"][:-1], "next_obs": arrays["obs"][1:]}, True
    arrays = {key: values[1:] if len(values) == rows + 1 else values for key, values in arrays.items()}
    shapes = {key: values.shape for key, values in arrays.items()}
    if {shape[0] for shape in shapes.values()} != {rows} or not rows:
        raise DamagedFileError(f"{where}: {shapes}: all must have as many rows, and some")
    flat = {key: values.reshape(rows, -1) for key, values in arrays.items()}
    if any(values.shape[1] != 1 for key, values in flat.items() if key not in _VECTORS):
        raise DamagedFileError(f"{where}: {shapes}: all but {', '.join(_VECTORS)} are one value a row")
    widths = [flat[key].shape[1] for key in ("obs", "action")]
    if 0 in widths or flat.get("next_obs", flat["obs"]).shape[1] != widths[0]:
        raise DamagedFileError(f"{where}: {shapes}: no width, or observations and next ones that differ")
    columns = {key: values if key in _VECTORS else values[:, 0] for key, values in flat.items()}
    kept = {
        key: log.to_float32(columns[key], DSRL_NAMES[key], where)
        for key in (*NEEDED, "next_obs")
        if key in columns
    }
    count = _rows_of_data(log, list(kept.values()), where)
    columns = {key: values[:count] for key, values in (columns | kept).items()}
    for key in _FLAGS:
        if key in columns:
            if not np.isin(columns[key], (0, 1)).all():
                raise DamagedFileError(f"{where}: {key} holds values other than 0 and 1")
            columns[key] = columns[key].astype(bool)
    ids, step = columns.pop("episode", None), columns.pop("step", None)
    data = _transitions(columns)
    # which of both an end is, if any, is asked later
    check_values(data._replace(timeouts=data.timeouts & ~data.terminals), where)
    return _in_order(columns, ids, step, where, whole)


def _in_order(
    kept: dict[str, np.ndarray], ids: np.ndarray | None, step: np.ndarray | None, where: str, whole: bool
) -> dict[str, np.ndarray]:
    """Return rows in the order of their episodes and of time, as columns of their numbers say it."""
    count = len(kept["obs"])
    row, moments = np.arange(count), np.arange(count) if step is None else step.astype(np.float64)
    for name, values in (("step", moments), ("episode", ids)):
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(f"{where}: {name} holds no number in row {int(np.argmin(np.isfinite(values)))}")
    last = None
    if ids is not None:
        _, first, code = np.unique(ids, return_index=True, return_inverse=True)
        # by first appearance, then in time
        order = row if step is None else np.lexsort((moments, first[code]))
        code, moments = code[order], moments[order]
        begins = np.r_[True, code[1:] != code[:-1]]
        if int(begins.sum()) > len(first):
            back = np.flatnonzero(begins & ~np.isin(row, first))[0]
            remedy = "name the column that orders an episode's rows with --map step="
            raise InputError(f"{where}: episode {ids[back]} comes back in row {back}", remedy)
        twice = np.flatnonzero(~begins[1:] & (np.diff(moments) == 0))
        if len(twice):
            raise InputError(f"{where}: episode {ids[order[twice[0]]]} has two rows of one step")
        kept, last = {key: values[order] for key, values in kept.items()}, np.r_[begins[1:], True]
    elif step is not None and not {"terminal", "timeout"} & set(kept) and (np.diff(moments) <= 0).any():
        last = np.r_[np.diff(moments) <= 0, True]
    elif whole:
        last = row == count - 1
    if step is not None:
        ahead = np.r_[np.diff(moments), 0.0]
        inside = ahead > 0 if last is None else ~last
        far = ahead > _GAP * np.median(ahead[inside]) if inside.any() else ~inside
        kept["gaps"] = (far | (ahead <= 0)) & (row < count - 1) & (True if last is None else ~last)
    return kept if last is None else kept | {"last": last}


def _rows_of_data(log: LogFile, arrays: list[np.ndarray], where: str) -> int:
    """Return how many rows of a part are data: those that its recorder never filled are not.

    Args:
        arrays: float32 (N, ...) each.
    """
    rows = np.concatenate([values.reshape(len(values), -1) for values in arrays], axis=1)
    count, last, choice = len(rows), rows[-1], log.options.tail
    others = np.flatnonzero(~((rows == last) | (np.isnan(rows) & np.isnan(last))).all(1))
    alike = count - (int(others[-1]) + 1 if len(others) else 0)
    empty = bool(((last == 0) | np.isnan(last)).all())
    if alike < (_LEAST_EMPTY if empty else _LEAST_ALIKE) or choice == "keep":
        return count
    doubt = f"the last {alike:,} rows are all alike, as rows are that were never filled"
    if not choice or alike == count:
        remedy = "say --tail drop, or --tail keep where the robot stood still"
        raise InputError(f"{where}: {doubt} (from row {count - alike})", remedy)
    log.note(f"{doubt}: dropped")
    return count - alike


def _derive_next(data: Transitions) -> Transitions:
    """Fill in the next observations of a file that has none, from the rows that follow in the same episode.

    The last row of an episode has none that follows. Where the time limit ended it, that row can't be kept,
    and the one before it becomes the last: what that led to is known, and the bootstrap goes on from there.
    Where the dynamics ended it, the row is kept with its own observation there: nothing bootstraps from it.
    """
    ends = data.terminals | data.timeouts
    next_obs = torch.where(ends[:, None], data.obs, data.obs.roll(-1, 0))
    return _without_last(data._replace(next_obs=next_obs))


def _without_last(data: Transitions) -> Transitions:
    """Leave out the last row of each episode that the time limit ended; the one before becomes the last."""
    timeouts = data.timeouts.roll(-1, 0) & ~(data.terminals | data.timeouts)
    timeouts[-1] = False
    keep = ~data.timeouts
    return Transitions(*(column[keep] for column in data._replace(timeouts=timeouts)))


def _repeats_last(data: Transitions) -> bool:
    """Return whether each last row of a time limit is followed by itself, and no other row is."""
    stays = (data.next_obs == data.obs).all(1)
    others = stays & ~(data.terminals | data.timeouts)
    return bool(data.timeouts.any()) and bool(stays[data.timeouts].all()) and not bool(others.any())


def _choose(log: LogFile, part: Part) -> dict[str, str]:
    """Return the columns of each key: what the user says, or the format's own names and what is proposed.

    Raises:
        InputError: something is not told, and could be this or that; it has the line that says it.
    """
    given, columns = dict(log.options.columns), part.columns
    if all(given.get(key) for key in NEEDED):
        _note_others(log, given, columns)
        return given
    own = {key: pattern for key, pattern in log.names.items() if _matching(pattern, columns)}
    chosen = own | given
    if all(chosen.get(key) for key in (*NEEDED, "terminal")):
        return chosen
    doubts = _propose(part, chosen)
    told = (key for key in _KEYS if chosen.get(key) or key in given)
    mapping = ",".join(f"{key}={chosen[key].replace(',', '?')}" for key in told)
    line = f"{log.options.rerun} --map {shlex.quote(mapping)}"
    if doubts:
        remedy = f"it has: {_listed(columns)}; say what is right, as in: {line}"
        raise InputError(f"{log.path}: {'; '.join(doubts)}", remedy)
    log.note(f"read as by: {line}")
    _note_others(log, chosen, columns)
    return chosen


def _note_others(log: LogFile, chosen: Mapping[str, str], columns: Mapping[str, Column]) -> None:
    """Note in which order vectors are, and what is not used; InputError: a column is two things."""
    taken = {key: _matching(pattern, columns) for key, pattern in chosen.items() if pattern}
    every = [name for names in taken.values() for name in names]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise InputError(f"{log.path}: --map takes {twice[0]!r} for two things", "write each out")
    for key in _VECTORS:
        if len(taken.get(key, [])) > 1:
            log.note(f"{key} is, in this order: {_listed(taken[key], ordered=True)}")
    if others := set(columns) - set(every):
        log.note(f"not used: {_listed(others)}")


def _candidates(key: str, columns: Mapping[str, Column]) -> list[str]:
    """Return the patterns of columns that are called as those of a key are, the likeliest first."""
    patterns: list[str] = []
    for called in _CALLED[key].split():
        exact = [name for name in columns if name.lower() in (called, f"infos/{called}")]
        patterns += [name for name in exact if key in _VECTORS or _holds(columns[name], key)]
        if exact or key not in _VECTORS:
            continue
        # a single letter is a name where a number follows alone
        spelled = rf"({re.escape(called)}[-_./\[ ]?)({'[0-9]+]?' if len(called) == 1 else '.+'})"
        begun: dict[str, list[str]] = {}
        for name in sorted(columns, key=natural):
            match = re.fullmatch(spelled, name, re.IGNORECASE)
            if match and _is_vector(columns[name]) and (len(match[1]) > len(called) or match[2].isdecimal()):
                begun.setdefault(f"{match[1]}*", []).append(name)
        for pattern, names in begun.items():
            fits = [name for name in _matching(pattern, columns) if _is_vector(columns[name])]
            patterns.append(pattern if fits == names else "+".join(names))
    return list(dict.fromkeys(patterns))


def _propose(part: Part, chosen: dict[str, str]) -> list[str]:
    """Add to the keys that are chosen what the other columns seem to be; returns what is doubtful in it."""
    columns, doubts = part.columns, list[str]()
    taken = {name for pattern in chosen.values() if pattern for name in _matching(pattern, columns)}
    free = {name: columns[name] for name in sorted(columns, key=natural) if name not in taken}
    for key in _CALLED:
        patterns = [] if key in chosen else _candidates(key, free)
        if key == "step":
            ids = columns.get(chosen.get("episode", ""))
            patterns = [name for name in patterns if _rises(columns[name], ids)]
        if not patterns:
            continue
        chosen[key] = patterns[0]
        if len(patterns) > 1 and key != "step":
            doubts.append(f"{key} may be {' or '.join(patterns)}")
        for name in [name for pattern in patterns for name in _matching(pattern, free)]:
            free.pop(name, None)
    flag = chosen.get("terminal", "")
    if flag.lower() in _ANY_END and "timeout" not in chosen and np.any(columns[flag]):
        doubts.append(f"{flag!r} may flag ends of the dynamics (terminal={flag}) or any (timeout={flag})")
    told = part.whole or any(chosen.get(key) for key in ("episode", *_FLAGS))
    if not told and (constant := [name for name in free if _in_stretches(free[name])]):
        chosen["episode"] = constant[0]
        del free[constant[0]]
        doubts.append(f"episode may be {' or '.join(constant)}, constant over stretches of rows")
    spare = [name for name in free if _is_vector(free[name])]
    flags = [name for name in spare if _holds(free[name], "cost") and np.isin(free[name], (0, 1)).all()]
    for key in (key for key in NEEDED if not chosen.get(key)):
        seem = {"cost": flags, "obs": ["+".join(spare)] if spare else []}.get(key, [])
        chosen[key] = seem[0] if len(seem) == 1 else f"{key.upper()}-COLUMN"
        others = f" (0 and 1 hold: {', '.join(seem)})" if len(seem) > 1 else ""
        doubts.append(f"no column is called as of {key}{others}")
    return doubts


def _rises(column: Column, ids: Column | None) -> bool:
    """Return whether a column counts on for most rows of an episode, as time does."""
    values = np.asarray(column)
    if ids is not None:
        values = values[np.argsort(np.asarray(ids), kind="stable")]
    return values.dtype.kind in "fiu" and bool((np.diff(values.astype(np.float64)) > 0).mean() > 0.5)


def _in_stretches(column: Column) -> bool:
    """Return whether a column is constant over stretches of rows, each value in one, as an id is."""
    values = np.asarray(column)
    if not _holds(values, "episode"):
        return False
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        return False
    stretches = 1 + int((values[1:] != values[:-1]).sum())
    return 1 < stretches == len(np.unique(values)) <= len(values) // 2
