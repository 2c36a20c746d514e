"""Logs of others are taken as they are or refused: ends, breaks, unfilled rows, files of other kinds."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from harden.data.convert import detect_format
from harden.data.dataset import open_dataset
from support.commands import harden, refused
from support.transitions import NAMES

STEPS, EPISODES = 20, 12
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def logs(end: str = "timeouts") -> Arrays:
    """Return walks from random starts, each as long as the time limit."""
    draw = np.random.default_rng(0)
    start = draw.uniform(-1, 1, (EPISODES, 1, 3))
    obs = start + np.concatenate(
        (np.zeros((EPISODES, 1, 3)), 0.02 * draw.normal(size=(EPISODES, STEPS, 3)).cumsum(1)), axis=1
    )
    rows = EPISODES * STEPS
    flags = np.arange(1, rows + 1) % STEPS == 0
    arrays = {
        "observations": obs[:, :-1].reshape(-1, 3),
        "actions": draw.uniform(-1, 1, (rows, 2)),
        "rewards": draw.normal(size=rows),
        "costs": np.zeros(rows),
        "next_observations": obs[:, 1:].reshape(-1, 3),
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    return arrays | {name: flags & (name == end) for name in ("terminals", "timeouts")}


def write(arrays: Arrays, **more: object) -> None:
    """Write logs.h5."""
    with h5py.File("logs.h5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **more)


def bring(*words: str) -> tuple[int, int, int]:
    """Import logs.h5; returns its rows, and how many ended as terminals and as timeouts."""
    harden("data", "import", "logs.h5", "--out", "set", *words)
    dataset = open_dataset(Path("set"))
    assert dataset.verify() == []
    data = dataset.read(0, len(dataset))
    return len(dataset), int(data.terminals.sum()), int(data.timeouts.sum())


def refuse(*words: str) -> str:
    """Be refused an import of logs.h5; nothing is left of it."""
    said = refused("data", "import", "logs.h5", "--out", "set", *words)
    assert not Path("set").exists()
    return said


LIMITED: dict[str, Callable[[Arrays], Arrays]] = {
    "no timeouts": lambda a: {name: values for name, values in a.items() if name != "timeouts"},
    "timeouts never raised": lambda a: a,
    "both at once": lambda a: a | {"timeouts": a["terminals"]},
}


@pytest.mark.parametrize("kind", LIMITED)
def test_a_terminal_on_the_time_limit_is_asked_for(kind: str) -> None:
    write(LIMITED[kind](logs("terminals")))
    words = ["--horizon", str(STEPS)]
    for option in ("--at-horizon timeout", "--at-horizon terminal"):
        assert option in refuse(*words)
    assert bring(*words, "--at-horizon", "timeout") == (EPISODES * STEPS, 0, EPISODES)


@pytest.mark.parametrize("horizon", [True, False])
def test_a_terminal_on_the_limit_stays_one_where_it_is_said_or_the_file_tells_them_apart(
    horizon: bool,
) -> None:
    words = ["--horizon", str(STEPS)] if horizon else []
    arrays = logs("terminals")
    write(arrays)
    assert "--at-horizon" in refuse(*words), "also where all end on one step and no limit is known"
    arrays["terminals"][STEPS - 1], arrays["timeouts"][STEPS - 1] = False, True
    write(arrays)
    assert bring(*words) == (EPISODES * STEPS, EPISODES - 1, 1)


@pytest.mark.parametrize("late", [-1, 1])
@pytest.mark.parametrize("end", ["timeouts", "terminals"])
@pytest.mark.parametrize("with_next", [True, False])
def test_flags_a_row_late_or_early_are_told_and_moved(late: int, end: str, with_next: bool) -> None:
    arrays = logs(end)
    if end == "terminals":
        # the time limit ends one, and no array says so
        arrays[end][5 * STEPS - 1] = False
        del arrays["timeouts"]
    arrays[end] = np.roll(arrays[end], late)
    if not with_next:
        del arrays["next_observations"]
    write(arrays)
    words = [] if end == "timeouts" else ["--horizon", str(STEPS), "--at-horizon", "terminal"]
    said = refuse(*words)
    assert f"--shift-flags {-late}" in said
    assert f"{STEPS - 1}" in said, "the row is named"
    rows, terminals, timeouts = bring(*words, "--shift-flags", str(-late))
    assert terminals + timeouts == EPISODES
    assert rows == EPISODES * STEPS - (0 if with_next else timeouts)


@pytest.mark.parametrize("all_but", [0, 9])
def test_terminals_that_lead_on_are_told(all_but: int) -> None:
    arrays = logs()
    arrays["terminals"] = np.arange(EPISODES * STEPS) >= all_but
    arrays["timeouts"][:] = False
    write(arrays)
    said = refuse()
    assert f"rows {all_but}, " in said
    assert "--map terminal=" in said
    assert bring("--shift-flags", "0")[1] == EPISODES * STEPS - all_but


def test_terminals_that_lead_on_are_left_out_when_told() -> None:
    arrays = logs()
    arrays["terminals"][:], arrays["timeouts"][:] = True, False
    write(arrays)
    assert bring("--map", "terminal=", "--horizon", str(STEPS)) == (EPISODES * STEPS, 0, EPISODES)


def test_rows_that_lead_elsewhere_are_named_and_asked_for() -> None:
    arrays = logs()
    arrays["next_observations"][[33, 71]] += 0.5
    write(arrays)
    said = refuse()
    assert "rows 33, 71" in said
    assert bring("--at-break", "timeout") == (EPISODES * STEPS, 0, EPISODES + 2)


def test_rows_that_lead_elsewhere_are_kept_when_told() -> None:
    arrays = logs()
    arrays["next_observations"][33] += 0.5
    write(arrays)
    assert bring("--at-break", "keep") == (EPISODES * STEPS, 0, EPISODES)


def test_breaks_are_ends_where_nothing_else_says_them() -> None:
    arrays = logs()
    del arrays["timeouts"]
    write(arrays)
    assert "--at-break timeout" in refuse()
    assert bring("--at-break", "timeout") == (EPISODES * STEPS, 0, EPISODES)


@pytest.mark.parametrize("lag", [0, 2])
def test_next_observations_of_another_row_are_asked_for(lag: int) -> None:
    arrays = logs()
    write(arrays | {"next_observations": np.roll(arrays["observations"], -lag, 0)})
    assert "--at-break" in refuse()


def test_observations_under_noise_are_taken_when_told() -> None:
    arrays = logs()
    arrays["next_observations"] += 1e-3
    write(arrays)
    assert "--at-break" in refuse()
    assert bring("--at-break", "keep") == (EPISODES * STEPS, 0, EPISODES)


@pytest.mark.parametrize("fill", [0.0, np.nan, 0.25])
@pytest.mark.parametrize("horizon", [True, False])
def test_rows_that_were_never_filled_are_no_episode(fill: float, horizon: bool) -> None:
    words = ["--horizon", str(STEPS)] if horizon else []
    arrays = {
        name: np.concatenate((values, np.full((50, *values.shape[1:]), fill if values.dtype != bool else 0)))
        for name, values in logs().items()
    }
    write(arrays)
    assert f"row {EPISODES * STEPS}" in refuse(*words)
    assert bring(*words, "--tail", "drop") == (EPISODES * STEPS, 0, EPISODES)


def test_a_robot_at_rest_is_kept_when_told() -> None:
    arrays = {
        name: np.concatenate((values, np.repeat(values[-1:], 30, 0))) for name, values in logs().items()
    }
    arrays["next_observations"][-31:] = arrays["observations"][-31:]
    arrays["timeouts"][-31:-1] = False
    write(arrays)
    assert "--tail keep" in refuse()
    assert bring("--tail", "keep")[0] == EPISODES * STEPS + 30


def test_a_finite_number_beyond_float32_is_named_as_that() -> None:
    arrays = logs()
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][7] = 1e300
    write(arrays)
    said = refuse()
    assert "1e+300 in row 7" in said
    assert "NaN" not in said


@pytest.mark.parametrize("name", ["observations", "rewards"])
def test_an_infinite_number_is_named_by_its_row(name: str) -> None:
    arrays = logs()
    arrays[name][7] = np.inf
    write(arrays)
    assert "row 7" in refuse()


def test_legitimate_storage_is_read() -> None:
    arrays = logs()
    with h5py.File("logs.h5", "w") as file:
        for name in NAMES:
            values = arrays[name]
            chunks = (100_000, *values.shape[1:])
            item = file.create_dataset(
                name, values.shape, values.dtype, chunks=chunks, maxshape=(None, *chunks[1:])
            )
            if values.any():
                item[...] = values
        file["cost"] = h5py.SoftLink("/costs")
        file.create_dataset("infos/contact", (1000,), bool, chunks=True)
        file["infos/camera"] = h5py.ExternalLink("elsewhere.h5", "/frames")
    assert bring("--map", "cost=cost") == (EPISODES * STEPS, 0, EPISODES)


def test_a_file_that_is_open_elsewhere_says_so() -> None:
    write(logs())
    with h5py.File("logs.h5", "r+", locking=True) as file:
        file.flush()
        words = [sys.executable, "-m", "harden", "data", "import", "logs.h5", "--out", "set"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "open for writing" in done.stderr


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "npy": (lambda path: np.save(path.open("wb"), logs()["rewards"]), ".npy"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(logs())), "pickle"),
    "arrow": (lambda path: path.write_bytes(b"ARROW1\0\0" + bytes(99)), "Arrow"),
    "json lines": (lambda path: path.write_text('{"reward": 1}\n{"reward": 0}\n'), "JSON"),
    "csv.gz": (lambda path: path.write_bytes(gzip.compress(b"reward,cost\n1,0\n")), "gzip"),
    "matlab": (lambda path: scipy.io.savemat(path, logs(), appendmat=False), "MATLAB"),
    "ros": (lambda path: path.write_bytes(b"#ROSBAG V2.0\n" + bytes(99)), "ROS"),
    "mcap": (lambda path: path.write_bytes(b"\x89MCAP0\r\n" + bytes(99)), "MCAP"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_called_by_its_name(kind: str) -> None:
    make, name = OTHERS[kind]
    make(Path("logs.h5"))
    said = refuse()
    assert name in said
    assert "docs/your-own-data.md" in said


def test_a_file_of_no_kind_is_told_which_kinds_there_are() -> None:
    Path("logs.dat").write_bytes(b"whatever" * 99)
    said = refused("data", "import", "logs.dat", "--out", "out")
    assert "logs.dat" in said
    assert "robomimic" in said
    assert not Path("out").exists()


def test_hdf5_behind_a_users_block_is_known_without_its_suffix() -> None:
    with h5py.File("logs.bin", "w", userblock_size=512) as file:
        file["rewards"] = np.zeros(3)
    assert detect_format(Path("logs.bin")) == "hdf5"


def test_a_dry_run_asks_the_same() -> None:
    write(logs("terminals"))
    assert "--at-horizon" in refuse("--horizon", str(STEPS), "--dry-run")
