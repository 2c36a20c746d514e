"""Minari's data sets, by the minari package: a group an episode, with one observation more than actions.

The package follows whatever a file holds, so that a file is looked through before the package opens it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harden.data.ends import settle_ends
from harden.data.episodes import batches
from harden.data.hdf5 import open_hdf5, require_stored_here
from harden.data.header import MOST_STEPS, Provenance, check_attribute, parse_attributes
from harden.data.limited import UNREADABLE, within_time
from harden.data.shard import check_values
from harden.data.source import Source, Wanted, check_lengths, narrow
from harden.errors import DamagedFileError, InputError
from harden.storage.files import read_json
from harden.types import Transitions

FILE = "main_data.hdf5"
_EPISODE = re.compile(r"episode_[0-9]{1,9}")
_MADE_BY = "minari"
_LOOK_SECONDS = 600.0


def find_minari(path: Path) -> Path:
    """Return the HDF5 file of a Minari data set: of its folder, of the `data` in it, or itself."""
    return next((place for place in (path / "data" / FILE, path / FILE) if place.is_file()), path)


def storage_class() -> Any:
    """Return the package's class that reads and writes.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError:
        raise InputError("minari is not installed", "install it with: pip install 'harden[minari]'") from None
    return MinariStorage


def read_minari(path: Path, wanted: Wanted) -> Source:
    """Open a Minari data set for conversion; all of it is read into memory.

    Args:
        path: its folder, or its HDF5 file.
        wanted: what the user says of it; the cost key is one of the infos, "cost" where not given.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; links out of the file, episodes missing or of
            other shapes.
        InputError: the package is not installed, no costs, data that are not vectors, an episode longer than
            the horizon, or ends that can't be told apart.
    """
    file = find_minari(path)
    notes: list[str] = []
    rounded: set[str] = set()
    storage, env_id, horizon = _open(file, wanted)
    with _package_errors(file):
        every = range(storage.total_episodes)
        episodes = [
            _transitions(f"{file}: episode {number}", episode, wanted.cost_key or "cost", rounded)
            for number, episode in enumerate(storage.get_episodes(every))
        ]
        said = [_plain(attributes) for attributes in storage.get_episode_metadata(every)]
        sources = [
            parse_attributes(attributes, f"{file}: episode {number}", "harden_")[2]
            for number, attributes in enumerate(said)
        ]
    if len({(episode.obs.shape[1], episode.actions.shape[1]) for episode in episodes}) != 1:
        raise DamagedFileError(f"{file}: episodes of different shapes")
    if rounded:
        notes.append(f"rounded to float32, which is what harden keeps: {', '.join(sorted(rounded))}")
    # what harden wrote itself was flagged by harden
    ours = "terminal" if all("harden_behaviour" in attributes for attributes in said) else None
    _settle(file, episodes, horizon, wanted.choices.at_horizon or ours, notes)
    first = episodes[0]
    sizes = first.obs.shape[1], first.actions.shape[1]
    return Source(env_id, horizon, *sizes, _chunks(episodes, sources), notes)


def _settle(
    file: Path, episodes: list[Transitions], horizon: int, choice: str | None, notes: list[str]
) -> None:
    """Have each episode end in one way, and say what had to be decided."""
    rows = np.array([len(episode.rewards) for episode in episodes])
    check_lengths(int(rows.max()), horizon, file)
    terminals, timeouts = (
        np.array([bool(flags[-1]) for flags in column])
        for column in zip(*((episode.terminals, episode.timeouts) for episode in episodes), strict=True)
    )
    endless = ~(terminals | timeouts)
    if endless.any():
        notes.append(f"{int(endless.sum())} episodes have no end: their last step is taken for a timeout")
    terminals, timeouts = settle_ends(file, rows, terminals, timeouts | endless, horizon, choice, notes)
    for episode, terminal, timeout in zip(episodes, terminals, timeouts, strict=True):
        episode.terminals[-1], episode.timeouts[-1] = bool(terminal), bool(timeout)


def _chunks(
    episodes: list[Transitions], sources: list[Provenance]
) -> Iterator[tuple[Provenance, Transitions]]:
    """Yield whole episodes, a shard at a time."""
    for source, group in itertools.groupby(zip(sources, episodes, strict=True), key=lambda pair: pair[0]):
        parts = [episode for _, episode in group]
        data = Transitions(*map(torch.cat, zip(*parts, strict=True)))
        stops = np.cumsum([len(part.rewards) for part in parts])
        for start, stop in batches(stops):
            yield source, Transitions(*(column[start:stop] for column in data))


def _open(file: Path, wanted: Wanted) -> tuple[Any, str, int]:
    """Return the package's reader of a data set, its environment and its time limit ("" and 0 if unknown)."""
    reader = storage_class()
    with open_hdf5(file, _MADE_BY) as opened:
        count = within_time(lambda: _look_through(opened), _LOOK_SECONDS, str(file))
    beside = file.with_name("metadata.json")
    about = read_json(beside, _MADE_BY)
    # without spaces the package would make the environment that the metadata name: anybody's code
    if not isinstance(about, dict) or not {"observation_space", "action_space", "total_episodes"} <= set(
        about
    ):
        raise DamagedFileError(f"{beside} is not Minari's metadata")
    if about.get("data_format") != "hdf5":
        raise InputError(f"{beside}: data_format {about.get('data_format')!r}", "harden reads Minari's hdf5")
    if about["total_episodes"] != count or not count:
        raise DamagedFileError(f"{file} holds {count} episodes, its metadata say {about['total_episodes']!r}")
    try:
        spec = about.get("env_spec")
        found = json.loads(spec) if isinstance(spec, str) else about.get("harden", {})
        # an environment without a time limit says null
        env_id, horizon = found.get("id") or "", found.get("max_episode_steps") or 0
    except (AttributeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{beside}: env_spec can't be read ({error})") from error
    with _package_errors(beside):
        storage = reader.read(file.parent.absolute())
    return (
        storage,
        wanted.env_id or check_attribute(env_id, "", f"{beside}: the environment's id"),
        wanted.horizon or check_attribute(horizon, 0, f"{beside}: max_episode_steps", 0, MOST_STEPS),
    )


def _look_through(file: h5py.File) -> int:
    """Return how many episodes a file holds, after a look at all its links, arrays and strings."""

    # h5py ends its walk with the first thing that is returned, and loses what is raised
    def link(name: str, found: object) -> str | None:
        return None if isinstance(found, h5py.HardLink | h5py.SoftLink) else name

    def item(name: str, found: h5py.Group | h5py.Dataset) -> Exception | None:
        try:
            dict(found.attrs)
            if isinstance(found, h5py.Dataset) and found.shape is not None:
                require_stored_here(found, name)
                if found.dtype.kind == "O":
                    found[()]
        except (DamagedFileError, *UNREADABLE) as error:
            return error
        return None

    elsewhere = file.visititems_links(link)
    if elsewhere is not None:
        raise DamagedFileError(f"{file.filename} is refused: {elsewhere!r} is a link that leads elsewhere")
    wrong = file.visititems(item)
    if wrong is not None:
        raise wrong
    return sum(1 for name in file if _EPISODE.fullmatch(name))


@contextlib.contextmanager
def _package_errors(path: Path) -> Iterator[None]:
    """Turn what the package raises on a data set that is not whole into one line."""
    try:
        yield
    except (*UNREADABLE, AssertionError, NotImplementedError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedFileError(f"{path} is not a Minari data set that is whole ({reason})") from error


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in said.items()}


def _transitions(where: str, episode: dict[str, Any], cost_key: str, rounded: set[str]) -> Transitions:
    rows = len(episode["rewards"])
    for key in ("observations", "actions"):
        if not isinstance(episode[key], np.ndarray) or episode[key].ndim != 2:
            raise InputError(
                f"{where}: {key} are not (steps, coordinates)",
                "harden learns from vectors, stored as one array",
            )
    if len(episode["observations"]) != rows + 1 or not rows:
        raise DamagedFileError(f"{where} has {rows} steps; Minari keeps one observation more than steps")
    infos = episode["infos"] or {}
    if not isinstance(infos.get(cost_key), np.ndarray):
        others = ", ".join(infos) or "none"
        raise InputError(
            f"{where} has no infos/{cost_key}",
            f"name the info that holds the costs with --cost-key: {others}",
        )
    # the infos' first entry is the reset's, where the collector was there to see it
    costs = infos[cost_key][-rows:]
    ends = [episode[key].astype(bool) for key in ("terminations", "truncations")]
    lengths = {len(values) for values in (episode["actions"], costs, *ends)}
    if lengths != {rows} or len(infos[cost_key]) > rows + 1:
        raise DamagedFileError(f"{where} has arrays of different lengths")
    if any(flags[:-1].any() for flags in ends):
        raise DamagedFileError(f"{where} ends before its last step")
    obs, actions, rewards, cost = (
        narrow(values, ndim, f"{where}, '{name}'", rounded)
        for name, values, ndim in (
            ("observations", episode["observations"], 2),
            ("actions", episode["actions"], 2),
            ("rewards", episode["rewards"], 1),
            (cost_key, costs, 1),
        )
    )
    terminals, timeouts = map(torch.from_numpy, ends)
    data = Transitions(obs[:-1], actions, rewards, cost, obs[1:], terminals, timeouts)
    check_values(data._replace(timeouts=timeouts & ~terminals), where)
    return data
