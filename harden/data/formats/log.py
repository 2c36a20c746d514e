"""What a reader of a foreign log takes and returns, and where episodes end in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from harden.data.manifest import Attributes, DatasetInfo, parse_attributes
from harden.errors import InputError
from harden.types import Transitions

# a shift of the flags is the cause when no more than this share of what contradicts them is left by it
_LEFT = 0.1
# flags from which a shift can be told by the size of the steps between observations alone, and by how much
_LEAST_FLAGS, _LARGER = 3, 3.0
# what holds of a log that harden wrote and flagged itself, attacked data among it
_OURS: dict[str, Any] = {"at_horizon": "terminal", "at_break": "keep", "shift": 0, "tail": "keep"}
DSRL_NAMES = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "cost": "costs",
    "next_obs": "next_observations",
    "terminal": "terminals",
    "timeout": "timeouts",
}
# terminals and timeouts, bool (N,) each
Ends = tuple[np.ndarray, np.ndarray]


class ImportOptions(NamedTuple):
    """What the user says of a foreign log, because it does not say so itself or can be read in two ways.

    Args:
        columns: which columns are what, as `parse_columns` gives them.
        rerun: the command that imports the file, but for its `--map`: what a proposal is written behind.
        env_id, horizon: the environment and the steps of its time limit, "" and 0 for what the file says.
        at_horizon: what an end on the last step of the time limit is, flagged as a terminal: "timeout" or
            "terminal"; None, here and below: refuse to guess.
        at_break: what a row is that leads elsewhere than to the next row and that no flag ends: a "timeout",
            or no end ("keep").
        shift: rows that the flags of ends are moved by, 0 for flags that are right.
        tail: whether rows at the end that are all alike go: "drop" or "keep".
    """

    columns: Mapping[str, str] = MappingProxyType({})
    rerun: str = "harden data import FILE --out DATA"
    env_id: str = ""
    horizon: int = 0
    at_horizon: str | None = None
    at_break: str | None = None
    shift: int | None = None
    tail: str | None = None


class Log(NamedTuple):
    """A foreign log in memory.

    Args:
        format: of the file.
        stated: what it says of itself.
        data: whole episodes.
        notes: what is not kept as it was, one line each.
    """

    format: str
    stated: Attributes
    data: Transitions
    notes: list[str]

    @property
    def info(self) -> DatasetInfo:
        """The data set that it is to become, still empty."""
        sizes = self.data.obs.shape[1], self.data.actions.shape[1]
        return DatasetInfo(self.stated.env_id, self.stated.horizon, *sizes, ())


class LogFile:
    """A foreign log while it is read.

    Args:
        path: the file or folder, for errors.
        options: what the user says of it; the horizon is the time limit, however it became known.

    Attributes:
        names: how the format itself calls its columns.
        stated: what the log says of itself.
        notes: what is not kept as it was, one line each.
    """

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.names: dict[str, str] = dict(DSRL_NAMES)
        self.stated: dict[str, Any] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Note what is not kept as it was, once."""
        self.notes += [text] * (text not in self.notes)

    def header(self) -> Attributes:
        """Return what the log says of itself, with what the user says in its place; the options follow it.

        Raises:
            DamagedFileError: it is what no data set can keep.
        """
        if {"behaviour", "policy_digest"} <= set(self.stated):
            given = self.options._asdict()
            self.options = self.options._replace(**{k: v for k, v in _OURS.items() if given[k] is None})
        said = {name: value for name in ("env_id", "horizon") if (value := getattr(self.options, name))}
        header = parse_attributes(self.stated | said, str(self.path))
        self.options = self.options._replace(horizon=header.horizon)
        return header

    def to_float32(self, values: np.ndarray, name: str, where: str) -> np.ndarray:
        """Return numbers as float32, and note where it can't hold them; InputError: one is beyond it."""
        with np.errstate(over="ignore", invalid="ignore"):
            kept = np.require(values, np.float32, ["C", "W"])
            if values.dtype != np.float32 and not np.array_equal(kept.astype(values.dtype), values):
                self.note(f"rounded to float32, which is what harden keeps: {name}")
                beyond = np.argwhere(np.isinf(kept) & np.isfinite(values))
                if len(beyond):
                    number = f"{values[tuple(beyond[0])]:.6g} in row {beyond[0][0]}"
                    what = f"{where}: '{name}' holds {number}"
                    raise InputError(what, "float32 ends at 3.4e38: take a larger unit")
        return kept


def limit_ends(terminals: np.ndarray, horizon: int) -> np.ndarray:
    """Return where a time limit of `horizon` steps ended an episode that has no terminal, bool (N,)."""
    row = np.arange(len(terminals))
    begins = np.r_[0, np.flatnonzero(terminals) + 1]
    age = row - begins[np.searchsorted(begins, row, side="right") - 1]
    return ((age + 1) % horizon == 0) & ~terminals


def _shifted(flags: np.ndarray, rows: int) -> np.ndarray:
    """Return flags moved later by some rows, earlier where negative."""
    moved = np.roll(flags, rows)
    moved[: max(rows, 0)] = False
    moved[len(moved) + min(rows, 0) :] = False
    return moved


def _better_shift(ends: Callable[[int], np.ndarray], obs: np.ndarray, follows: np.ndarray | None) -> int:
    """Return the shift of the flags that the observations speak for, 0 where they do not contradict them."""
    if follows is not None:
        left = {rows: int((~follows & ~ends(rows)[:-1]).sum()) for rows in (0, -1, 1)}
        best = min(left, key=lambda rows: left[rows])
        return best if left[best] <= _LEFT * left[0] else 0
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.linalg.norm(np.diff(obs, axis=0) / (obs.std(0) + 1e-12), axis=1)
    rows = np.flatnonzero(ends(0))
    rows = rows[(rows > 0) & (rows < len(distance) - 1)]
    if len(rows) < _LEAST_FLAGS:
        return 0
    here = distance[rows]
    for better in (-1, 1):
        there = distance[rows + better]
        if np.median(there) > _LARGER * np.median(here) and np.mean(there > here) >= 1 - _LEFT:
            return better
    return 0


def find_ends(
    file: LogFile,
    obs: np.ndarray,
    next_obs: np.ndarray | None,
    terminals: np.ndarray | None,
    timeouts: np.ndarray | None,
    last: np.ndarray | None = None,
    gaps: np.ndarray | None = None,
) -> Ends:
    """Return terminals and timeouts as harden keeps them: apart, and with an end to the last episode.

    Args:
        obs, next_obs: float32 (N, obs_dim), finite, the latter None where the file has none.
        terminals, timeouts: bool (N,), as flagged; None where the file has none.
        last: bool (N,), which rows are the last of their episode; None where only the flags say it.
        gaps: bool (N,), which rows are not followed by the next one in time; None where no column says it.

    Raises:
        InputError: the observations contradict the flags, or ends can't be told, and the user did not say.
    """
    follows = None if next_obs is None else (next_obs[:-1] == obs[1:]).all(1)
    if gaps is not None and gaps.any():
        follows = ~gaps[:-1] if follows is None else follows & ~gaps[:-1]
    none = np.zeros(len(obs), bool)
    terminal = none if terminals is None else terminals
    if last is None:
        terminal, timeout = _flagged_ends(file, obs, follows, terminal, timeouts)
    else:
        terminal, timeout = _known_ends(file, last, terminal, none if timeouts is None else timeouts)
    if follows is not None:
        timeout = timeout | _breaks(file, terminal | timeout, follows)
    if not terminal[-1] and not timeout[-1]:
        file.note("the last episode has no end in the file: its last row is taken for a timeout")
        timeout[-1] = True
    ends = np.flatnonzero(terminal | timeout)
    lengths = np.diff(ends, prepend=-1)
    terminal[ends], timeout[ends] = _settle_ends(file, lengths, terminal[ends], timeout[ends])
    return terminal, timeout


def _breaks(file: LogFile, ends: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """Return which rows are ends that no flag says, bool (N,); InputError: there are, and nobody said so."""
    breaks, choice = np.r_[~follows & ~ends[:-1], False], file.options.at_break
    if not breaks.any():
        return breaks
    doubt = f"{_some(breaks)} of {int((~ends).sum()):,} that no flag ends lead elsewhere than to the next row"
    if not choice:
        remedy = "say --at-break timeout where the recording was cut there, keep where there is noise; where "
        remedy += "next observations are another row's, leave them out: the following row's are taken then"
        raise InputError(f"{file.path}: {doubt}", remedy)
    file.note(f"{doubt}: {'taken for timeouts' if choice == 'timeout' else 'kept as they are'}")
    return breaks & (choice == "timeout")


def _known_ends(file: LogFile, last: np.ndarray, terminals: np.ndarray, timeouts: np.ndarray) -> Ends:
    """Return the ends of episodes whose last rows are known; InputError: others are flagged."""
    terminal, timeout = (_shifted(flags, file.options.shift or 0) for flags in (terminals, timeouts))
    inside = (terminal | timeout) & ~last
    if inside.any():
        what = f"{file.path}: an episode ends before its last step, by the flags of {_some(inside)}"
        raise InputError(what, "move flags with --shift-flags, or leave them out of --map")
    endless = last & ~(terminal | timeout)
    if endless.any():
        file.note(f"{endless.sum():,} episodes have no end flagged: their last step is taken for a timeout")
    return terminal, timeout | endless


def _flagged_ends(
    file: LogFile,
    obs: np.ndarray,
    follows: np.ndarray | None,
    terminals: np.ndarray,
    timeouts: np.ndarray | None,
) -> Ends:
    """Return the ends that flags and the time limit say; errors as `find_ends`.

    Args:
        follows: bool (N - 1,), which rows lead to the next one; None where that can't be told.
    """
    options, horizon = file.options, file.options.horizon
    if timeouts is None or not (terminals.any() or timeouts.any()):
        # an array that nobody filled says no more than none
        lacks = "has no timeouts" if timeouts is None else "flags no episode's end"
        timeouts = None
        if horizon:
            file.note(f"the file {lacks}: an episode without a terminal ends after {horizon} steps")
        elif follows is None or options.at_break != "timeout":
            remedy = "name an episode's steps with --horizon, or the column of its id with --map episode="
            remedy += "" if follows is None else ", or say --at-break timeout"
            raise InputError(f"{file.path} {lacks}: where a time limit ended one can't be told", remedy)

    def flagged(rows: int) -> Ends:
        moved = _shifted(terminals, rows)
        if timeouts is not None:
            return moved, _shifted(timeouts, rows)
        return moved, limit_ends(moved, horizon) if horizon else np.zeros_like(moved)

    def ends(rows: int) -> np.ndarray:
        return np.logical_or(*flagged(rows))

    asked = options.shift is None and (terminals.any() or timeouts is not None)
    if asked and (better := _better_shift(ends, obs, follows)):
        raise InputError(
            f"{file.path}: the flags of ends stand a row {'late' if better < 0 else 'early'}: they are at "
            f"{_some(ends(0))}, the observations break off at {_some(_shifted(ends(0), better))}",
            f"move them with --shift-flags {better}; if they are right, say --shift-flags 0",
        )
    # a time limit may cut a run that goes on; nothing comes after a terminal
    leading = np.zeros_like(terminals) if follows is None else np.r_[terminals[:-1] & follows, False]
    if options.shift is None and 2 * leading.sum() > terminals.sum():
        raise InputError(
            f"{file.path}: {_some(leading)} that are flagged as terminals lead exactly to the next row",
            "leave the flags out with --map terminal= and name an episode's steps with --horizon; if they "
            "are right, say --shift-flags 0",
        )
    return flagged(options.shift or 0)


def _settle_ends(file: LogFile, lengths: np.ndarray, terminals: np.ndarray, timeouts: np.ndarray) -> Ends:
    """Return of each episode whether the dynamics ended it, and whether the time limit did: never both.

    Loggers of Gym's older interface write `done`, true at the time limit as well, where a terminal is asked
    for. A terminal there would teach the critics that nothing comes after the limit.

    Args:
        lengths: int64 (episodes,).
        terminals, timeouts: bool (episodes,), as flagged on the last row.

    Raises:
        InputError: an episode is longer than the time limit, or it can't be told and the user did not say.
    """
    horizon, choice = file.options.horizon, file.options.at_horizon
    if horizon and lengths.max() > horizon:
        what = f"{file.path}: the longest episode has {lengths.max()} steps, the horizon is {horizon}"
        raise InputError(what, "give the limit's with --horizon; say --map timeout= where it is not flagged")
    limit = horizon or int(lengths.max())
    both, at_limit = terminals & timeouts, terminals & (lengths == limit)
    # an end that is flagged as the limit's shows that the file tells the two apart
    apart = bool((timeouts & ~terminals & (lengths == limit)).any())
    # of an unknown limit there is no sign but that several episodes end on the same step, the last of all
    known = horizon > 0 or (int(at_limit.sum()) > 1 and limit > 1)
    doubtful = both | (at_limit & (choice == "timeout" if choice else known and not apart))
    if doubtful.any():
        doubt = f"all {int(at_limit.sum()):,} episodes of {limit} steps, the most, end as terminals"
        if both.any():
            doubt = f"{int(both.sum()):,} episodes end as terminal and timeout at once"
        if not choice:
            remedy = "say --at-horizon timeout where the limit cut them, as in logs of Gym's older 'done', "
            raise InputError(f"{file.path}: {doubt}", remedy + "--at-horizon terminal where the robot failed")
        file.note(f"{doubt}: kept as {choice}s")
    if choice == "timeout":
        return terminals & ~doubtful, timeouts | doubtful
    return terminals, timeouts & ~doubtful


def _some(marked: np.ndarray) -> str:
    """Return how many rows are marked, bool (N,), and the first of them, in words."""
    rows = np.flatnonzero(marked)
    shown = ", ".join(str(int(row)) for row in rows[:4])
    return f"{len(rows):,} rows (rows {shown}{f', ... {int(rows[-1])}' if len(rows) > 4 else ''})"
