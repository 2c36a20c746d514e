"""Logs of other tools, each by the file that the tool itself wrote, and what is refused in them."""

from __future__ import annotations

import shlex
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from fixtures.logs.make import LENGTHS, episodes
from harden.data import convert
from harden.data.dataset import open_dataset
from harden.data.formats.columns import natural
from harden.types import Transitions
from support.commands import harden, refused

HERE = Path(__file__).parent / "fixtures/logs"
TABLE = "obs=o_*,action=a_*,reward=r,cost=speeding,episode=ep"
ROBOMIMIC = "obs=obs/*,action=actions,reward=rewards,cost=costs,next_obs=next_obs/*"
# file, its --map, whether it has what followed the last rows, and says which ends are the dynamics'
EXAMPLES: dict[str, tuple[str, str, bool, bool]] = {
    "csv": ("table.csv", f"{TABLE},terminal=crashed,step=t", False, True),
    "csv without flags": ("table.csv", TABLE, False, False),
    "parquet": ("table.parquet", f"{TABLE},terminal=crashed", False, True),
    "npz, a file an episode": ("arrays", "", True, True),
    "npz, a pattern": ("arrays/run_*.npz", "", True, True),
    "robomimic": ("robomimic.hdf5", ROBOMIMIC, False, False),
    "robomimic without next_obs": ("robomimic.hdf5", ROBOMIMIC.partition(",next")[0], False, False),
    "lerobot 2": ("lerobot-2", "", False, False),
    "lerobot 3": ("lerobot-3", "", False, False),
}


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def bring(path: object, *words: str) -> Transitions:
    """Import a log; returns what became of it."""
    harden("data", "import", str(path), "--out", "set", *words)
    dataset = open_dataset(Path("set"))
    assert dataset.verify() == []
    return dataset.read(0, len(dataset))


def refuse(path: object, *words: str) -> str:
    """Be refused an import in one line; nothing is left of it."""
    said = refused("data", "import", str(path), "--out", "set", *words)
    assert not Path("set").exists()
    return said


def expected(followed: bool, flagged: bool) -> dict[str, np.ndarray]:
    """Return the rows of the examples: but for the last of an episode that no dynamics ended, if need be."""
    rows: dict[str, list[np.ndarray]] = {}
    for episode in episodes():
        ended = flagged and episode["terminal"].any()
        count = len(episode["reward"]) - (not followed and not ended)
        row = {key: values[:count] for key, values in episode.items()} | {
            "next_obs": episode["obs"][1 : count + 1]
        }
        if ended and not followed:
            row["next_obs"] = np.r_[row["next_obs"][:-1], row["obs"][-1:]]
        last = np.arange(count) == count - 1
        row |= {"terminal": last & ended, "timeout": last & (not ended)}
        for key, values in row.items():
            rows.setdefault(key, []).append(values)
    return {key: np.concatenate(parts) for key, parts in rows.items()}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_a_tool_wrote_is_read(kind: str) -> None:
    name, mapping, followed, flagged = EXAMPLES[kind]
    data = bring(HERE / name, *(["--map", mapping] if mapping else []))
    wanted = expected(followed, flagged)
    for key, column in zip(
        ("obs", "action", "reward", "cost", "next_obs", "terminal", "timeout"), data, strict=True
    ):
        np.testing.assert_array_equal(column.numpy(), wanted[key], err_msg=key)


def test_a_last_observation_that_is_repeated_is_no_step_and_a_robot_at_rest_is_one() -> None:
    # robomimic's converter has nothing after an episode's last step, and repeats what was before it
    said = harden("data", "import", str(HERE / "robomimic.hdf5"), "--map", ROBOMIMIC, "--out", "set").output
    assert "3 episodes" in next(line for line in said.splitlines() if "followed by themselves" in line)
    flags = {"terminal": np.zeros(12, bool), "timeout": np.arange(12) % 4 == 3, "episode": None}
    for resting, moved in ((1, 0.0), (0, 0.5)):
        # where a robot stood still before, or one episode's end was seen, the others may have been seen too
        obs = np.cumsum(np.ones((12, 2)), 0)
        obs[1] -= resting
        followed = np.where(flags["timeout"][:, None], obs, np.roll(obs, -1, 0))
        followed[3] += moved
        path = write_npz(obs=obs, next_obs=followed, **{f"obs[{i}]": None for i in (0, 10, 2)}, **flags)
        harden("data", "import", str(path), "--out", f"set-{resting}")
        assert open_dataset(Path(f"set-{resting}")).info.transitions == 12


def table(**columns: Any) -> dict[str, np.ndarray]:
    """Return three episodes of four steps as columns, with others in the place of some."""
    draw = np.random.default_rng(0)
    made = {f"obs[{i}]": draw.normal(size=12) for i in (0, 10, 2)} | {"action": draw.uniform(-1, 1, 12)}
    made |= {"reward": draw.normal(size=12), "cost": np.arange(12) % 2, "episode": np.repeat([7, 3, 5], 4)}
    made |= columns
    return {name: np.asarray(values) for name, values in made.items() if values is not None}


def write_parquet(**columns: Any) -> Path:
    """Write them as Parquet."""
    made = {name: pyarrow.array(values.tolist()) for name, values in table(**columns).items()}
    pyarrow.parquet.write_table(pyarrow.table(made), "log.parquet")
    return Path("log.parquet")


def write_npz(**columns: Any) -> Path:
    """Write them as NumPy does."""
    np.savez("log.npz", **table(**columns))
    return Path("log.npz")


def write_csv(**columns: Any) -> Path:
    """Write them as text."""
    made = table(**columns)
    lines = [";".join(made), *(";".join(map(str, row)) for row in zip(*made.values(), strict=True))]
    Path("log.csv").write_text("\n".join(lines) + "\n")
    return Path("log.csv")


WRITERS = {"parquet": write_parquet, "npz": write_npz, "csv": write_csv}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_called_as_usual_needs_no_words_and_the_line_that_is_printed_does_the_same(kind: str) -> None:
    path = WRITERS[kind]()
    said = harden("data", "import", str(path), "--out", "set").output
    (line,) = (line for line in said.splitlines() if "read as by: " in line)
    words = shlex.split(line.partition("read as by: ")[2])
    assert "obs is, in this order: obs[0], obs[2], obs[10]" in said
    data = open_dataset(Path("set")).read(0, 9)
    np.testing.assert_array_equal(data.obs[:3, 2].numpy(), table()["obs[10]"].astype(np.float32)[:3])
    assert words[words.index("--out") + 1] == "set"
    words[words.index("--out") + 1] = "again"
    harden(*words[1:])
    assert open_dataset(Path("again")).info.digest == open_dataset(Path("set")).info.digest


def test_text_and_times_name_and_order_episodes() -> None:
    start = np.datetime64("2026-01-01")
    stamps = np.tile(start + np.arange(4) * np.timedelta64(20, "ms"), 3)
    order = np.arange(12).reshape(3, 4).T.ravel()
    ids = np.repeat(["run b", "run a", "run c"], 4)
    columns = {name: values[order] for name, values in table(episode=ids, stamp=stamps).items()}
    with_times = {name: pyarrow.array(values) for name, values in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(with_times), "log.parquet")
    data = bring("log.parquet")
    by_name = {first: i for i, first in enumerate(dict.fromkeys(columns["episode"]))}
    wanted = np.concatenate([np.flatnonzero(ids == name)[:3] for name in by_name])
    np.testing.assert_array_equal(data.rewards.numpy(), table()["reward"].astype(np.float32)[wanted])


def test_arrays_of_episodes_steps_and_coordinates() -> None:
    draw = np.random.default_rng(0)
    arrays = {"observations": draw.normal(size=(2, 6, 3)), "actions": draw.normal(size=(2, 5, 2))}
    arrays |= {name: draw.uniform(size=(2, 5)) for name in ("rewards", "costs")}
    np.savez("log.npz", **arrays)
    data = bring("log.npz", "--map", "obs=observations,action=actions,reward=rewards,cost=costs")
    assert data.timeouts.numpy().nonzero()[0].tolist() == [4, 9]
    np.testing.assert_array_equal(data.next_obs[9].numpy(), arrays["observations"][1, 5].astype(np.float32))


def test_a_dry_run_shows_what_would_be_made_and_writes_nothing() -> None:
    said = harden(
        "data", "import", str(HERE / "table.csv"), "--map", TABLE, "--out", "set", "--dry-run"
    ).output
    assert "9 transitions in 3 episodes" in said
    assert "by the time limit 3" in said
    assert "the last rows of 3 episodes that the time limit ended are dropped" in said
    assert "not used: crashed, t" in said
    wanted = expected(followed=False, flagged=False)
    for low in (wanted["obs"].min(0)[1], wanted["action"].min(0)[0], wanted["reward"][:4].sum()):
        assert f"{low:.5g}"[:7] in said
    assert not list(Path().iterdir())


WHOLE = "obs=obs*,action=action,reward=reward,cost=cost,episode=episode"
STEP = np.tile(np.arange(4), 3)
# columns of the table, options, what is said
REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no cost": ({"cost": None, "danger": STEP % 2}, [], "cost=danger"),
    "two rewards": ({"r": np.zeros(12)}, [], "reward may be reward or r"),
    "a done that may be either": ({"done": STEP == 3}, [], "timeout=done"),
    "episodes by their look": ({"episode": None, "nr": np.repeat([0, 1, 2], 4)}, [], "episode=nr"),
    "no episodes": ({"episode": None}, [], "--map episode="),
    "an id that comes back": ({"episode": np.tile([0, 1], 6)}, [], "comes back in row 2"),
    "a step twice": ({"step": STEP // 2}, ["--map", f"{WHOLE},step=step"], "two rows of one step"),
    "a step left out": ({"step": STEP + (STEP > 1)}, [], "--at-break"),
    "an end inside": ({"terminal": STEP == 2}, [], "ends before its last step"),
    "flags of three": ({"terminal": STEP}, [], "other than 0 and 1"),
    "no number": ({"reward": [np.nan] * 12}, [], "row 0"),
    "a negative cost": ({"cost": -STEP}, [], "costs are at least 0"),
    "no such key": ({}, ["--map", "state=obs*"], "obs, action, reward, cost"),
    "no such column": ({}, ["--map", "cost=none"], "no column 'none'"),
    "twice": ({"o": STEP}, ["--map", f"{WHOLE},step=o*"], "for two things"),
    "several for one": ({"x_0": STEP, "x_1": STEP}, ["--map", f"{WHOLE},step=x_*"], "step is one column"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_told_or_could_be_two_things_is_asked(kind: str) -> None:
    columns, words, said = REFUSED[kind]
    assert said in refuse(write_npz(**columns), *words)


@pytest.mark.parametrize(
    ("write", "column", "said"),
    [
        (write_csv, ["fast", *["slow"] * 11], "not numbers"),
        (write_csv, ["1", *[""] * 11], "row 1"),
        (write_parquet, [[1.0], *[[1.0, 2.0]] * 11], "different lengths"),
        (write_parquet, [{"x": 1.0}] * 12, "struct"),
        (write_npz, np.array([{"x": 1}] * 12, dtype=object), "Object arrays"),
        (write_npz, np.zeros(12, dtype=[("x", "f4")]), "not numbers"),
    ],
)
def test_what_holds_no_numbers_is_named(write: Callable[..., Path], column: Any, said: str) -> None:
    if write is write_parquet:
        table_of = {name: pyarrow.array(values) for name, values in table().items()}
        pyarrow.parquet.write_table(
            pyarrow.table(table_of | {"reward": pyarrow.array(column)}), "log.parquet"
        )
        path = Path("log.parquet")
    else:
        path = write(reward=column)
    assert said in refuse(path, "--map", WHOLE)


def _huge_npy(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("obs.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
        )


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("obs.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 26, 9)}
        np.lib.format.write_array_header_1_0(file, header)


def _wide(path: Path) -> None:
    path.write_text("a,b\n1,2\n1,2,3\n")


def _twice(path: Path) -> None:
    path.write_text("obs,action,obs\n1,2,3\n")


def _two_kinds(path: Path) -> None:
    path.mkdir()
    (path / "a.csv").write_text("a\n1\n")
    np.savez(path / "b.npz", a=np.zeros(3))


def _other_columns(path: Path) -> None:
    path.mkdir()
    for number in range(2):
        np.savez(path / f"{number}.npz", **table(**({"cost": None} if number else {})))


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "array larger than its file": (_huge_npy, "can't be read"),
    "zip bomb": (_bomb, "can't be read"),
    "rows of other lengths": (_wide, "can't be read"),
    "two columns of a name": (_twice, "two columns called 'obs'"),
    "empty": (lambda path: path.write_bytes(b""), "can't be read"),
    "no Parquet": (lambda path: path.write_bytes(b"PAR1" + bytes(99)), "can't be read"),
    "files of two kinds": (_two_kinds, "csv, npz"),
    "a file that lacks a column": (_other_columns, "1.npz has no column 'cost'"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_damaged_and_hostile_files_are_one_line(kind: str) -> None:
    spoil, said = SPOILED[kind]
    spoil(Path("log.csv"))
    assert said in refuse("log.csv")


def _hang(*_: object) -> Any:
    while True:
        time.sleep(1)


def _fill(*_: object) -> Any:
    return iter([np.ones(1 << 32) for _ in range(9)])


def _die(*_: object) -> Any:
    import ctypes

    ctypes.string_at(0)


@pytest.mark.parametrize("reader", [_hang, _fill, _die])
def test_a_reader_that_hangs_dies_or_takes_all_memory_is_ended(
    reader: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_SECONDS", 5.0)
    monkeypatch.setitem(convert.READERS, "csv", reader)
    assert "can't be read" in refuse(write_csv())


def test_a_missing_frame_of_lerobot_is_noticed() -> None:
    for file in (HERE / "lerobot-2").rglob("*"):
        if file.is_file() and file.name != "episode_000001.parquet":
            copy = Path("some") / file.relative_to(HERE / "lerobot-2")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    assert "9 frames" in refuse("some")


def test_links_that_lead_out_of_a_group_an_episode_are_not_followed() -> None:
    with h5py.File("log.h5", "w") as file:
        for number in range(2):
            for name, values in table().items():
                file[f"data/demo_{number}/{name}"] = values
        del file["data/demo_1/reward"]
        file["data/demo_1/reward"] = h5py.ExternalLink("/etc/passwd", "/reward")
    assert "leads to elsewhere" in refuse("log.h5")


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "harden[logs]" in refuse(path)


def test_numbers_in_names_are_in_order() -> None:
    names = ["o10", "o2", "o02b", "p1", f"o{'9' * 5000}", "o"]
    assert sorted(names, key=natural) == ["o", "o2", "o02b", "o10", f"o{'9' * 5000}", "p1"]
    assert len(LENGTHS) == len(episodes())
