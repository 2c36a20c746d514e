"""Named columns, whatever file they are in, and the one way from them to transitions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from harden.data.formats.log import DSRL_NAMES, Log, LogFile, find_ends, rows_alike_at_end
from harden.data.shard import check_values
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions

NEEDED = ("obs", "action", "reward", "cost")
_VECTORS = ("obs", "action", "next_obs")
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
_SHOWN = 40


class Column(NamedTuple):
    """A column that is not read yet.

    Args:
        kind: "number", "text", or the name of another type.
        axes: of one row's value: 0 for a number, 1 for a vector.
        read: returns it, (rows, ...).
    """

    kind: str
    axes: int
    read: Callable[[], np.ndarray]


class Part(NamedTuple):
    """Rows of a foreign log that are read together: a file of it, or the group of an episode.

    Args:
        where: of the log it is, for errors; "" for all of it.
        whole: whether an episode ends with it.
    """

    where: str
    columns: Mapping[str, Column]
    whole: bool


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """Return which columns are what, of words such as "obs=pos_*+vel_*,action=a_*"; InputError: not such."""
    found: dict[str, str] = {}
    for word in (part for text in words for part in text.split(",") if part.strip()):
        key, equals, pattern = word.strip().partition("=")
        if key not in _CALLED or not equals or key in found:
            allowed = ", ".join((*NEEDED, *(key for key in _CALLED if key not in NEEDED)))
            remedy = f"write each key once, as in obs=pos_*+vel_*,action=a_*; the keys are: {allowed}"
            raise InputError(f"--map: {word.strip()!r} is not KEY=COLUMN", remedy)
        found[key] = pattern
    return found


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


def read_columns(log: LogFile, parts: Iterable[Part]) -> Log:
    """Make transitions of named columns.

    A column of one row more than the actions holds what was there before the first step as well: of
    observations each row is then followed by the next one, of anything else the first row is left out. Arrays
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
    if next_obs is None:
        log.notes.append(
            "the file has no next observations: they are the observations that follow in the same episode; "
            f"the last rows of {int(ends[1].sum())} episodes that the time limit ended are dropped, since "
            f"what followed is not there; the {int(ends[0].sum())} that the dynamics ended keep theirs, "
            "with their own observation as the next one"
        )
        data = _derive_next(data)
    if not len(data.rewards):
        raise InputError(f"{log.path} holds no episode of which anything can be kept")
    return log.finish(header, data)


def _transitions(arrays: Mapping[str, np.ndarray]) -> Transitions:
    flags = {key: arrays.get(key, np.zeros(len(arrays["obs"]), bool)) for key in ("terminal", "timeout")}
    known = {"next_obs": arrays["obs"], **arrays, **flags}
    return Transitions(*(torch.from_numpy(known[key]) for key in (*NEEDED, "next_obs", *flags)))


def _stack(log: LogFile, part: Part, key: str, pattern: str) -> np.ndarray:
    """Return the columns that a pattern names side by side, as the file has them."""
    where, names = f"{log.path}{part.where}", _matching(pattern, part.columns)
    usable = [name for name in names if _usable(part.columns[name])]
    if pattern in names or not usable:
        usable = names
    elif len(names) > len(usable):
        note = (
            f"no vectors of numbers, and left out of {key}: {', '.join(n for n in names if n not in usable)}"
        )
        log.notes += [note] * (note not in log.notes)
    if not usable:
        raise InputError(f"{where} has no column {pattern!r} for {key}", f"it has: {_listed(part.columns)}")
    if key not in _VECTORS and len(usable) > 1:
        raise InputError(f"{where}: {key} is one column, and {pattern!r} is {', '.join(usable)}")
    values = []
    for name in usable:
        column = part.columns[name]
        if column.kind not in ("number", "text" if key == "episode" else "number"):
            raise DamagedFileError(f"{where}: '{name}' holds {column.kind}, not numbers")
        values.append(column.read())
    if len(values) == 1:
        return values[0]
    rows = {name: one.shape[:1] for name, one in zip(usable, values, strict=True)}
    if len(set(rows.values())) != 1 or max(one.ndim for one in values) > 2:
        raise DamagedFileError(f"{where}: {rows} rows of {key}, of at most one axis each, must be as many")
    return np.concatenate([one.reshape(len(one), -1) for one in values], axis=1)


def _usable(column: Column) -> bool:
    return column.kind == "number" and column.axes < 2


def _listed(names: Iterable[str]) -> str:
    every = sorted(names, key=natural)
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
    lengths = {key: len(values) for key, values in arrays.items()}
    if set(lengths.values()) != {rows} or not rows:
        raise DamagedFileError(f"{where}: {lengths} rows; all lengths must be equal and not 0")
    kept: dict[str, np.ndarray] = {}
    for key, values in arrays.items():
        if key in _VECTORS:
            kept[key] = log.to_float32(
                values[:, None] if values.ndim == 1 else values, 2, DSRL_NAMES[key], part
            )
        elif key in ("reward", "cost"):
            kept[key] = log.to_float32(values, 1, DSRL_NAMES[key], part)
    if not kept["obs"].size or not kept["action"].size:
        raise DamagedFileError(f"{where}: observations or actions of no width")
    if kept["obs"].shape != kept.get("next_obs", kept["obs"]).shape:
        raise DamagedFileError(f"{where}: observations and next observations differ in shape")
    count = _rows_of_data(log, list(kept.values()), where)
    for key in ("terminal", "timeout", "episode", "step"):
        if key in arrays:
            values = arrays[key].reshape(rows, -1)[:count]
            if values.shape[1] != 1:
                raise DamagedFileError(f"{where}: {key} has shape {arrays[key].shape}, expected (rows,)")
            arrays[key] = values[:, 0]
            if key in ("terminal", "timeout"):
                if not np.isin(values, (0, 1)).all():
                    raise DamagedFileError(f"{where}: {key} holds values other than 0 and 1")
                kept[key] = values[:, 0].astype(bool)
    kept = {key: values[:count] for key, values in kept.items()}
    data = _transitions(kept)
    # which of both an end is, if any, is asked later
    check_values(data._replace(timeouts=data.timeouts & ~data.terminals), where)
    return _in_order(kept, arrays.get("episode"), arrays.get("step"), where, whole)


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
    """Return how many rows of a part are data: those that its recorder never filled are not."""
    count, choice = len(arrays[0]), log.options.tail
    alike = rows_alike_at_end(arrays)
    if not alike or choice == "keep":
        return count
    doubt = f"the last {alike:,} rows are all alike, as rows are that were never filled"
    if not choice:
        remedy = "say --tail drop, or --tail keep where the robot stood still"
        raise InputError(f"{where}: {doubt} (from row {count - alike})", remedy)
    if alike == count:
        raise InputError(f"{where}: all its rows are alike", "nothing can be learned from them")
    log.notes.append(f"{doubt}: dropped")
    return count - alike


def _derive_next(data: Transitions) -> Transitions:
    """Fill in the next observations of a file that has none, from the rows that follow in the same episode.

    The last row of an episode has none that follows. Where the time limit ended it, that row can't be kept,
    and the one before it becomes the last: what that led to is known, and the bootstrap goes on from there.
    Where the dynamics ended it, the row is kept with its own observation there: nothing bootstraps from it.
    """
    ends = data.terminals | data.timeouts
    next_obs = torch.where(ends[:, None], data.obs, data.obs.roll(-1, 0))
    timeouts = data.timeouts.roll(-1, 0) & ~ends
    timeouts[-1] = False
    keep = ~data.timeouts
    return Transitions(*(column[keep] for column in data._replace(next_obs=next_obs, timeouts=timeouts)))


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
    mapping = ",".join(
        f"{key}={chosen[key].replace(',', '?')}"
        for key in (*NEEDED, *(key for key in _CALLED if key not in NEEDED))
        if chosen.get(key) or key in given
    )
    line = f"{log.options.rerun} --map {shlex.quote(mapping)}"
    if doubts:
        remedy = f"say what is right, as in: {line}"
        held = f"it has: {_listed(columns)}"
        raise InputError(f"{log.path}: {'; '.join(doubts)}", f"{held}; {remedy}")
    log.notes.append(f"read as by: {line}")
    _note_others(log, chosen, columns)
    return chosen


def _note_others(log: LogFile, chosen: Mapping[str, str], columns: Mapping[str, Column]) -> None:
    taken = {key: _matching(pattern, columns) for key, pattern in chosen.items() if pattern}
    every = [name for names in taken.values() for name in names]
    twice = sorted({name for name in every if every.count(name) > 1})
    if twice:
        raise InputError(f"{log.path}: --map takes {twice[0]!r} for two things", "write each out")
    for key in _VECTORS:
        if len(taken.get(key, [])) > 1:
            log.notes.append(f"{key} is, in this order: {_listed_in_order(taken[key])}")
    if others := set(columns) - set(every):
        log.notes.append(f"not used: {_listed(others)}")


def _listed_in_order(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return shown.encode("unicode_escape").decode()


def _candidates(key: str, columns: Mapping[str, Column], free: Sequence[str]) -> list[str]:
    """Return the patterns of free columns that are called as those of a key are, the likeliest first."""
    found: list[str] = []
    for name in _CALLED[key].split():
        exact = [one for one in free if one.lower() in (name, f"infos/{name}")]
        found += [
            one
            for one in exact
            if key in _VECTORS
            or (columns[one].axes == 0 and columns[one].kind in ("number", "text" * (key == "episode")))
        ]
        if exact or key not in _VECTORS:
            continue
        # a single letter is a name where a number follows alone
        spelled = rf"({re.escape(name)}[-_./\[ ]?)({'[0-9]+]?' if len(name) == 1 else '.+'})"
        begun: dict[str, list[str]] = {}
        for one in free:
            match = re.fullmatch(spelled, one, re.IGNORECASE)
            if match and _usable(columns[one]) and (len(match[1]) > len(name) or match[2].isdecimal()):
                begun.setdefault(f"{match[1]}*", []).append(one)
        for pattern, names in begun.items():
            fits = [one for one in _matching(pattern, columns) if _usable(columns[one])]
            found.append(pattern if fits == names else "+".join(names))
    return list(dict.fromkeys(found))


def _propose(part: Part, chosen: dict[str, str]) -> list[str]:
    """Add to the keys that are chosen what the other columns seem to be; returns what is doubtful in it."""
    columns, doubts = part.columns, list[str]()
    free = [
        name
        for name in sorted(columns, key=natural)
        if not any(name in _matching(pattern, columns) for pattern in chosen.values() if pattern)
    ]
    for key in _CALLED:
        if key in chosen:
            continue
        patterns = _candidates(key, columns, free)
        if key == "step":
            ids = columns.get(chosen.get("episode", ""))
            patterns = [name for name in patterns if _rises(columns[name], ids)]
        if not patterns:
            continue
        chosen[key] = patterns[0]
        if len(patterns) > 1 and key != "step":
            doubts.append(f"{key} may be {' or '.join(patterns)}")
        free = [name for name in free if not any(name in _matching(one, columns) for one in patterns)]
    flag = chosen.get("terminal", "")
    if flag.lower() in _ANY_END and "timeout" not in chosen and columns[flag].read().any():
        doubts.append(
            f"{flag!r} may flag the ends of the dynamics (terminal={flag}) or those of the recording "
            f"(timeout={flag})"
        )
    told = part.whole or any(chosen.get(key) for key in ("episode", "terminal", "timeout"))
    if not told and (constant := [name for name in free if _in_stretches(columns[name])]):
        chosen["episode"] = constant[0]
        free.remove(constant[0])
        doubts.append(f"episode may be {' or '.join(constant)}, constant over stretches of rows")
    spare = [name for name in free if _usable(columns[name])]
    flags = [
        name for name in spare if columns[name].axes == 0 and np.isin(columns[name].read(), (0, 1)).all()
    ]
    for key in (key for key in NEEDED if not chosen.get(key)):
        seem = {"cost": flags, "obs": ["+".join(spare)] if spare else []}.get(key, [])
        chosen[key] = seem[0] if len(seem) == 1 else f"{key.upper()}-COLUMN"
        others = f" (0 and 1 hold: {', '.join(seem)})" if len(seem) > 1 else ""
        doubts.append(f"no column is called as of {key}{others}")
    return doubts


def _rises(column: Column, ids: Column | None) -> bool:
    """Return whether a column counts on for most rows of an episode, as time does."""
    values = column.read()
    if ids is not None:
        values = values[np.argsort(ids.read(), kind="stable")]
    return values.dtype.kind in "fiu" and bool((np.diff(values.astype(np.float64)) > 0).mean() > 0.5)


def _in_stretches(column: Column) -> bool:
    """Return whether a column is constant over stretches of rows, each value in one, as an id is."""
    if column.kind not in ("number", "text") or column.axes:
        return False
    values = column.read()
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        return False
    stretches = 1 + int((values[1:] != values[:-1]).sum())
    return 1 < stretches == len(np.unique(values)) <= len(values) // 2
