"""Data sets repaired, merged, filtered and split: by whole episodes, and never half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.config.tasks import TASKS
from harden.data.dataset import Dataset, DatasetWriter, open_dataset
from harden.data.edit import filter_episodes, split
from harden.data.episodes import summarise
from harden.errors import DamagedFileError, InputError, StorageError
from harden.types import Transitions
from support.commands import harden, refused
from support.damage import DAMAGE
from support.transitions import HOW, TASK, counted, make, same


def joined(*parts: Transitions) -> Transitions:
    """Put transitions one after another."""
    return Transitions(*map(torch.cat, zip(*parts, strict=True)))


def episodes(data: Transitions) -> list[Transitions]:
    """Take episodes apart, row by row."""
    found, start = [], 0
    for row in range(len(data.rewards)):
        if data.terminals[row] or data.timeouts[row]:
            found.append(Transitions(*(column[start : row + 1] for column in data)))
            start = row + 1
    assert start == len(data.rewards)
    return found


def store(path: Path, *shards: Transitions, **how: object) -> Path:
    """Write a data set of some shards."""
    with DatasetWriter(path, TASK) as writer:
        for data in shards:
            writer.append(data, **HOW | how)  # type: ignore[arg-type]
    return path


SHARDS = [make([3, 1], 0), make([3], 4), make([2, 3], 7, terminal=True)]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of three shards in the working folder."""
    monkeypatch.chdir(tmp_path)
    return store(Path("set"), *SHARDS)


def whole(path: Path | str) -> Transitions:
    """Read all of a data set, after a check of its checksums."""
    dataset = open_dataset(Path(path))
    assert dataset.verify() == []
    return dataset.read(0, len(dataset))


# repair


@pytest.mark.parametrize("kind", [*DAMAGE, "flipped"])
def test_repair_keeps_what_is_whole_and_sets_the_rest_aside(stored: Path, kind: str) -> None:
    path = stored / "shard-00000.h5"
    if kind == "flipped":
        with h5py.File(path, "r+") as file:
            file["rewards"][1] += 1
    else:
        DAMAGE[kind](path)
    assert "keep what is whole with: harden data repair set" in refused("data", "verify", "set")
    said = harden("data", "repair", "set").output
    assert f"{'lost' if kind == 'missing' else 'set aside in set/damaged'}: shard-00000.h5" in said
    assert "8 transitions in 3 episodes in 2 whole shards" in said
    assert same(whole("set"), joined(*SHARDS[1:]))
    assert os.path.lexists(stored / "damaged/shard-00000.h5") == (kind != "missing")
    with DatasetWriter(stored, TASK) as writer:
        writer.append(make([2], 50), **HOW)
    assert same(whole("set"), joined(*SHARDS[1:], make([2], 50))), "the new shard replaces none"


def test_repair_of_a_whole_data_set_changes_nothing(stored: Path) -> None:
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    assert "3 whole shards" in harden("data", "repair", "set").output
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_lost_manifest_is_made_again_from_the_shards(stored: Path, text: str | None) -> None:
    manifest = stored / "manifest.json"
    before = manifest.read_text()
    manifest.unlink() if text is None else manifest.write_text(text)
    assert "mend it with: harden data repair set" in refused("data", "info", "set")
    harden("data", "repair", "set")
    assert manifest.read_text() == before


def test_repair_takes_in_shards_that_no_manifest_lists_and_refuses_those_of_another_kind(
    stored: Path,
) -> None:
    manifest = json.loads((stored / "manifest.json").read_text())
    del manifest["shards"][1:]
    (stored / "manifest.json").write_text(json.dumps(manifest))
    ant = TASKS["ant-run"]
    with DatasetWriter(Path("other"), ant) as writer:
        data = make([2])
        row = torch.zeros(2, 1)
        wide = data._replace(
            obs=row.expand(-1, ant.obs_dim),
            next_obs=row.expand(-1, ant.obs_dim),
            actions=row.expand(-1, ant.act_dim),
        )
        writer.append(wide, **HOW)
    os.rename("other/shard-00000.h5", stored / "shard-00007.h5")
    said = harden("data", "repair", "set").output
    assert "taken in: shard-00001.h5" in said
    assert "shard-00007.h5: its data set has obs_dim 8, set/shard-00007.h5 has 33" in said
    assert same(whole("set"), joined(*SHARDS))


def test_nothing_is_changed_where_nothing_is_whole(stored: Path) -> None:
    for path in stored.glob("*.h5"):
        path.write_bytes(b"")
    before = sorted(stored.rglob("*"))
    assert "no shard of set is whole, nothing was changed" in refused("data", "repair", "set")
    assert sorted(stored.rglob("*")) == before
    assert "is not a data set's folder" in refused("data", "repair", "nowhere")


def test_a_repair_that_is_stopped_can_be_done_again(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stored / "shard-00001.h5").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(
            "harden.data.edit.write_manifest", lambda *_: (_ for _ in ()).throw(StorageError("full"))
        )
        refused("data", "repair", "set")
    assert "lost: shard-00001.h5" in harden("data", "repair", "set").output
    assert same(whole("set"), joined(SHARDS[0], SHARDS[2]))


# writers


_HOLD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from harden.data.dataset import DatasetWriter
from support.transitions import TASK
with DatasetWriter(Path(sys.argv[1]), TASK):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_may_not_write_nor_repair_until_the_first_is_gone(stored: Path) -> None:
    script = _HOLD.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(stored)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match="being written by another process"):
            DatasetWriter(stored, TASK)
        assert "being written by another process" in refused("data", "repair", "set")
        assert same(whole("set"), joined(*SHARDS)), "reading goes on"
        first.kill()
    harden("data", "repair", "set")
    DatasetWriter(stored, TASK).close()


def test_shards_without_their_manifest_are_never_written_over(stored: Path) -> None:
    (stored / "manifest.json").unlink()
    with pytest.raises(
        DamagedFileError, match=r"3 shards that its manifest does not list.*harden data repair"
    ):
        DatasetWriter(stored, TASK)
    harden("data", "repair", "set")
    assert same(whole("set"), joined(*SHARDS))


def test_a_lock_that_leads_elsewhere_is_not_followed(stored: Path) -> None:
    (stored / ".lock").unlink()
    (stored / ".lock").symlink_to("../elsewhere")
    with pytest.raises(StorageError):
        DatasetWriter(stored, TASK)
    assert not Path("elsewhere").exists()


# merge


def test_merge_keeps_order_content_and_where_shards_come_from(stored: Path) -> None:
    store(Path("more"), make([2], 90), seed=9, behaviour="random")
    said = harden("data", "merge", "more", "set", "--out", "all").output
    assert "14 transitions in 6 episodes" in said
    assert same(whole("all"), joined(make([2], 90), *SHARDS))
    info = open_dataset(Path("all"), TASK).info
    assert [shard.behaviour for shard in info.shards] == ["random", *["policy-sample"] * 3]
    assert [shard.seed for shard in info.shards] == [9, 3, 3, 3]


def test_a_file_of_an_unknown_task_may_be_merged_where_it_fits(stored: Path) -> None:
    with h5py.File("d.h5", "w") as file:
        for name, column in zip(
            ("observations", "actions", "rewards", "costs", "next_observations", "terminals", "timeouts"),
            make([2], 90),
            strict=True,
        ):
            file[name] = column.numpy()
    harden("data", "merge", "d.h5", "set", "--out", "all")
    info = open_dataset(Path("all")).info
    assert (info.env_id, info.horizon) == (TASK.env_id, TASK.horizon)
    assert info.shards[0].behaviour == "imported"


def test_benign_and_attacked_data_are_never_mixed(stored: Path) -> None:
    store(Path("attacked"), make([2], 90), behaviour="mc")
    said = refused("data", "merge", "set", "attacked", "--out", "all")
    assert "attacked was collected under attack, and others were not" in said
    assert not Path("all").exists()
    harden("data", "filter", "attacked", "--out", "some")
    assert "COLLECTED UNDER ATTACK" in harden("data", "info", "some").output


def test_other_tasks_and_the_same_data_twice_are_not_merged(stored: Path) -> None:
    with DatasetWriter(Path("short"), TASK._replace(horizon=150)) as writer:
        writer.append(make([2], 90), **HOW)
    assert "data set short has horizon 150, set has 200" in refused(
        "data", "merge", "set", "short", "--out", "x"
    )
    assert "set" in refused("data", "merge", "set", "set", "--out", "x")
    assert "shard" in refused("data", "merge", "set", "set/shard-00001.h5", "--out", "x")
    assert "set is there already" in refused("data", "merge", "set", "--out", "set")
    assert not Path("x").exists()


# filter and split


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=3
    ),
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
    st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)),
)
def test_filter_by_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    shards: list[list[tuple[int, bool]]],
    numbers: tuple[int, int],
    rewards: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("set")
    first, last = sorted(numbers)
    parts = [
        counted([n for n, _ in shard], ["terminal" if end else "timeout" for _, end in shard])
        for shard in shards
    ]
    store(folder / "set", *parts)
    wanted = [
        episode
        for number, episode in enumerate(episodes(joined(*parts)))
        if first <= number < last and min(rewards) <= sum(episode.rewards.tolist()) <= max(rewards)
    ]
    limits = {"rewards": (min(rewards), max(rewards)), "ranges": [(first, last)]}
    if not wanted:
        with pytest.raises(InputError, match="none of the"):
            filter_episodes(folder / "set", folder / "out", **limits)
        assert sorted(path.name for path in folder.iterdir()) == ["set"]
        return
    filter_episodes(folder / "set", folder / "out", **limits)
    assert same(whole(folder / "out"), joined(*wanted))


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--max-cost", "1"], [0, 1, 2, 3]),
        (["--min-cost", "2"], [4]),
        (["--min-reward", "60", "--max-reward", "200"], [2, 3]),
        (["--episodes", "1:3"], [1, 2]),
        (["--episodes", "0,3:"], [0, 3, 4]),
        (["--episodes", ":2", "--min-reward", "30"], [0, 1]),
        (["--episodes", "0:1,0:2"], [0, 1]),
    ],
)
def test_filter_on_the_command_line(stored: Path, words: list[str], kept: list[int]) -> None:
    harden("data", "filter", "set", *words, "--out", "some")
    every = episodes(joined(*SHARDS))
    assert same(whole("some"), joined(*(every[i] for i in kept)))


@pytest.mark.parametrize("text", ["b", "3:1", "-1:4", "1:2:3", "2:2", "1.5", " ", "1, ", "0,,2"])
def test_a_range_that_is_none(stored: Path, text: str) -> None:
    assert "is no range of episodes" in refused("data", "filter", "set", "--episodes", text, "--out", "x")


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 30), st.integers(0, 5), st.floats(0.2, 0.8))
def test_split_puts_each_episode_in_one_part(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, share: float
) -> None:
    folder = tmp_path_factory.mktemp("set")
    data = counted([2] * count, ["timeout"] * count)
    store(folder / "set", *(joined(*episodes(data)[i : i + 7]) for i in range(0, count, 7)))
    shares = {"train": share, "test": 1 - share}
    expected = round(share * count)
    if expected in (0, count):
        return
    made = split(folder / "set", folder / "out", shares, seed)
    assert abs(made["train"].episodes - share * count) <= 0.5 + 1e-6
    parts = [episodes(whole(folder / "out" / name)) for name in shares]
    starts = [[float(episode.obs[0, 0]) for episode in part] for part in parts]
    assert all(part == sorted(part) for part in starts), "the order is kept"
    assert sorted(starts[0] + starts[1]) == [1000.0 * i for i in range(count)]
    again = split(folder / "set", folder / "again", shares, seed)
    assert [part.digest for part in again.values()] == [part.digest for part in made.values()]


def test_split_depends_on_its_seed(stored: Path) -> None:
    store(Path("many"), counted([1] * 40, ["timeout"] * 40))
    for seed in ("0", "1"):
        harden("data", "split", "many", "a=0.5", "b=0.25", "c=0.25", "--seed", seed, "--out", seed)
    found = [open_dataset(Path(seed) / part).info for seed in ("0", "1") for part in "abc"]
    assert [info.episodes for info in found] == [20, 10, 10] * 2
    assert found[0].digest != found[3].digest


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["a=0.5", "b=0.4"], "shares are positive and sum to 1"),
        (["a=1.5", "b=-0.5"], "shares are positive and sum to 1"),
        (["a=nan", "b=0.5"], "shares are positive and sum to 1"),
        (["a=0.5", "a=0.5"], "'a=0.5' is no part"),
        (["a", "b=0.5"], "'a' is no part"),
        (["../a=0.5", "b=0.5"], "a name is made of letters"),
        (["a=0.99", "b=0.01"], "5 episodes leave a part without one"),
    ],
)
def test_a_split_that_is_none(stored: Path, parts: list[str], said: str) -> None:
    assert said in refused("data", "split", "set", *parts, "--out", "out")
    assert not Path("out").exists()


# info


def test_info_by_brute_force(stored: Path) -> None:
    obs = torch.randn(12, TASK.obs_dim, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    data = joined(*SHARDS)._replace(obs=obs, next_obs=obs.roll(-1, 0))
    noisy = data.next_obs.clone()
    noisy[0] += 1
    data = data._replace(next_obs=noisy)
    store(Path("random"), Transitions(*(c[:7] for c in data)), Transitions(*(c[7:] for c in data)))
    assert "12 transitions in 5 episodes, 2 shards" in harden("data", "info", "random").output
    dataset = open_dataset(Path("random"))
    found = summarise(dataset.info, dataset.shards())
    rewards = [sum(episode.rewards.tolist()) for episode in episodes(data)]
    assert found["reward"]["mean"] == pytest.approx(np.mean(rewards))
    assert found["reward"]["q25"] == pytest.approx(np.quantile(rewards, 0.25))
    assert found["length"]["max"] == 3
    assert (found["terminals"], found["timeouts"]) == (2, 3)
    # 7 of the 12 rows are followed by one of their own episode, and one of these was made noisy
    assert found["continuous"] == pytest.approx(6 / 7)
    np.testing.assert_allclose(found["observations"]["std"], obs.double().numpy().std(0), rtol=1e-6)
    np.testing.assert_allclose(found["observations"]["mean"], obs.double().numpy().mean(0), rtol=1e-9)
    assert found["observations"]["min"] == obs.amin(0).tolist()


# what is copied is verified


def flip(path: Path, name: str) -> None:
    """Change a number of a shard to another one that is as plausible."""
    with h5py.File(path) as file:
        offset = file[name].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


COPIES = [
    ["merge", "set", "--out", "out-v0"],
    ["filter", "set", "--episodes", "0:", "--out", "out-v0"],
    ["split", "set", "a=0.5", "b=0.5", "--out", "out-v0"],
    ["export", "set", "--to", "dsrl", "--out", "out-v0"],
    ["export", "set", "--to", "minari", "--out", "out-v0"],
]


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        *((words, alone) for words in COPIES for alone in (False, True)),
        (["import", "set", "--out", "x"], True),
    ],
)
def test_a_damaged_shard_is_never_copied_under_a_new_checksum(
    stored: Path, words: list[str], alone: bool
) -> None:
    shard = stored / "shard-00000.h5"
    words = [str(shard) if word == "set" and alone else word for word in words]
    flip(shard, "rewards")
    said = refused("data", *words)
    assert "shard-00000.h5" in said
    assert "harden data repair set" in said
    assert not os.path.lexists(words[-1])
    if alone:
        # a file that no manifest lists has nothing to be compared with
        (stored / "manifest.json").unlink()
        harden("data", *words)


def test_a_manifest_that_calls_attacked_data_benign_is_not_copied(stored: Path) -> None:
    store(Path("attacked"), make([2], 90), behaviour="mc")
    path = Path("attacked/manifest.json")
    path.write_text(path.read_text().replace('"mc"', '"policy-sample"'))
    assert "behaviour" in refused("data", "merge", "set", "attacked", "--out", "all")
    assert not Path("all").exists()


_REPAIR = """
import os, sys, threading
from harden import __main__ as program
from harden.data import edit
began, (wait, number) = edit.shard_files, sys.argv[1:]
def arm(path):
    threading.Timer(float(wait), os.kill, (os.getpid(), int(number))).start()
    return began(path)
edit.shard_files = arm
sys.argv[1:] = ["data", "repair", "set"]
program.main()
"""


def test_a_repair_that_is_interrupted_sets_nothing_aside(stored: Path) -> None:
    store(Path("set"), *(make([200] * 50, 1000 * n) for n in range(20)))
    before = sorted(path.name for path in stored.glob("*"))
    took = time.monotonic()
    Dataset(stored).verify()
    took = time.monotonic() - took
    codes = []
    for part, number in enumerate([signal.SIGINT, signal.SIGTERM] * 2):
        # the signal comes once shards are being looked at, earlier or later among them
        words = [sys.executable, "-c", _REPAIR, str(took * part / 4), str(int(number))]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert sorted(path.name for path in stored.glob("*")) == before
        assert done.returncode in (0, 128 + number)
        codes.append(done.returncode)
    assert any(codes)
    assert Dataset(stored).verify() == []
