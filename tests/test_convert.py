"""Conversions by counters written into the data, and held against the minari package itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.data.dataset import DatasetWriter, open_dataset
from harden.data.formats.log import limit_ends
from harden.errors import StorageError
from harden.storage.folders import whole_folder
from harden.types import Transitions
from support.commands import harden, refused
from support.transitions import DATA, ENDS, HOW, LENGTHS, NAMES, TASK, counted, same, write_flat


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stored() -> Path:
    """A data set of two shards, from two policies, below the working folder."""
    with DatasetWriter(Path("set"), TASK) as writer:
        writer.append(Transitions(*(column[:4] for column in DATA)), **HOW)
        writer.append(
            Transitions(*(column[4:] for column in DATA)), **HOW | {"seed": 4, "behaviour": "random"}
        )
    return Path("set")


def whole(path: Path | str) -> Transitions:
    """Read all of a data set, after a check of its checksums."""
    dataset = open_dataset(Path(path))
    assert dataset.verify() == []
    return dataset.read(0, len(dataset))


@pytest.mark.parametrize("target", ["dsrl", "minari"])
def test_a_round_trip_is_exact_to_the_bit_and_keeps_where_data_come_from(stored: Path, target: str) -> None:
    out = {"dsrl": "out.h5", "minari": "out-v0"}[target]
    harden("data", "export", "set", "--to", target, "--out", out)
    said = harden("data", "import", out, "--out", "back").output
    assert f"10 transitions in 4 episodes from {out} ({'hdf5' if target == 'dsrl' else target})" in said
    assert "note:" not in said
    assert same(whole("back"), DATA)
    before, after = open_dataset(stored).info, open_dataset(Path("back")).info
    assert {shard.behaviour for shard in before.shards} == {"policy-sample", "random"}
    assert [shard.behaviour for shard in after.shards] == ["mixed"]
    assert (after.env_id, after.horizon) == (TASK.env_id, TASK.horizon)
    harden("data", "filter", "set", "--episodes", "0:2", "--out", "first")
    out = {"dsrl": "first.h5", "minari": "first-v0"}[target]
    harden("data", "export", "first", "--to", target, "--out", out)
    harden("data", "import", out, "--out", "again")
    assert open_dataset(Path("again")).info == open_dataset(Path("first")).info, "even the file is the same"


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["terminal", "timeout"])), min_size=1, max_size=9),
    st.sampled_from(["dsrl", "minari"]),
)
def test_any_episodes_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[tuple[int, str]], target: str
) -> None:
    folder = tmp_path_factory.mktemp("set")
    data = counted([length for length, _ in episodes], [end for _, end in episodes])
    with DatasetWriter(folder / "set", TASK) as writer:
        writer.append(data, **HOW)
    out = str(folder / "out-v0")
    harden("data", "export", str(folder / "set"), "--to", target, "--out", out)
    harden("data", "import", out, "--from", target, "--out", str(folder / "back"))
    assert same(whole(folder / "back"), data)


def test_a_dsrl_export_is_itself_a_data_set_and_says_what_is_attacked(stored: Path) -> None:
    with DatasetWriter(Path("attacked"), TASK) as writer:
        for seed in (0, 1):
            writer.append(counted([2], ["timeout"]), **HOW | {"behaviour": "mc", "seed": seed})
    harden("data", "export", "attacked", "--to", "dsrl", "--out", "all.h5")
    assert len(open_dataset(Path("all.h5"), TASK)) == 4
    assert open_dataset(Path("all.h5")).info.attacked
    harden("data", "import", "all.h5", "--out", "back")
    assert open_dataset(Path("back")).info.attacked


def minari_episodes(monkeypatch: pytest.MonkeyPatch, root: Path, name: str) -> list:
    """Let the minari package read a data set below a root of its own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    import minari

    return list(minari.load_dataset(name).iterate_episodes())


def test_minari_itself_reads_what_is_exported(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = harden("data", "export", "set", "--to", "minari", "--out", "root/ball-circle-v0").output
    assert "env_spec is left out" in said
    episodes = minari_episodes(monkeypatch, Path("root").absolute(), "ball-circle-v0")
    assert [len(episode) for episode in episodes] == LENGTHS
    for e, (episode, end) in enumerate(zip(episodes, ENDS, strict=True)):
        t = np.arange(LENGTHS[e] + 1)
        np.testing.assert_array_equal(episode.observations[:, 0], 1000 * e + t)
        np.testing.assert_array_equal(episode.actions[:, 0], -(1000 * e + t[:-1]))
        np.testing.assert_array_equal(episode.rewards, 2 * (1000 * e + t[:-1]))
        np.testing.assert_array_equal(episode.infos["cost"], [0, *(1000 * e + t[:-1] + 0.5)])
        last = t[:-1] == LENGTHS[e] - 1
        np.testing.assert_array_equal(episode.terminations, last & (end == "terminal"))
        np.testing.assert_array_equal(episode.truncations, last & (end == "timeout"))


def made_by_minari(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    data: Transitions,
    lengths: list[int],
    reset_info: bool = True,
) -> Path:
    """Let the minari package write episodes; returns the data set's folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffers = []
    for part in zip(*(column.split(lengths) for column in data), strict=True):
        episode = Transitions(*(column.numpy() for column in part))
        costs = np.r_[99.0, episode.costs] if reset_info else episode.costs
        buffers.append(
            EpisodeBuffer(
                observations=np.concatenate((episode.obs, episode.next_obs[-1:])),
                actions=episode.actions,
                rewards=episode.rewards.tolist(),
                terminations=episode.terminals.tolist(),
                truncations=episode.timeouts.tolist(),
                infos={"cost": costs, "name": ["text"] * len(costs)},
            )
        )
    box = gymnasium.spaces.Box
    minari.create_dataset_from_buffers(
        "mine-v0",
        buffers,
        observation_space=box(-np.inf, np.inf, (TASK.obs_dim,), np.float32),
        action_space=box(-np.inf, np.inf, (TASK.act_dim,), np.float32),
    )
    return root / "mine-v0"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reset_info", [True, False])
@pytest.mark.parametrize("inside", [".", "data", "data/main_data.hdf5"])
def test_what_minari_itself_writes_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset_info: bool, inside: str
) -> None:
    folder = made_by_minari(monkeypatch, tmp_path / "root", DATA, LENGTHS, reset_info)
    said = harden("data", "import", str(folder / inside), "--out", str(tmp_path / "set")).output
    assert "(minari)" in said
    assert "note:" not in said, "costs and rewards are float64 there, and these fit float32"
    assert same(whole(tmp_path / "set"), DATA)
    assert open_dataset(tmp_path / "set").info.shards[0].behaviour == "imported"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_episodes_of_minari_that_end_twice_or_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = DATA._replace(timeouts=DATA.timeouts.clone(), terminals=DATA.terminals.clone())
    twice.timeouts[3] = True
    twice.timeouts[9] = False
    folder = made_by_minari(monkeypatch, tmp_path / "root", twice, LENGTHS)
    words = ["data", "import", str(folder), "--out", str(tmp_path / "set")]
    assert "--at-horizon" in refused(*words)
    said = harden(*words, "--at-horizon", "terminal").output
    assert said.count("note: 1 episodes") == 2
    assert same(whole(tmp_path / "set"), DATA)


def test_minari_cannot_hold_observations_that_steps_do_not_share(stored: Path) -> None:
    noisy = counted([3], ["timeout"])
    noisy.obs[1] += 0.01
    with DatasetWriter(stored, TASK) as writer:
        writer.append(noisy, **HOW)
    said = refused("data", "export", "set", "--to", "minari", "--out", "out-v0")
    assert "shard-00002.h5, its episode 0: what followed step 0" in said
    assert "--to dsrl" in said
    assert not [path for path in Path().iterdir() if "out" in path.name]
    harden("data", "export", "set", "--to", "dsrl", "--out", "out.h5")
    harden("data", "import", "out.h5", "--out", "back")
    assert same(open_dataset(Path("back")).recent(3), noisy)


def test_a_dsrl_file_that_says_nothing_of_itself() -> None:
    write_flat(Path("d.hdf5"), DATA)
    said = harden(
        "data", "import", "d.hdf5", "--env-id", TASK.env_id, "--horizon", "200", "--out", "set"
    ).output
    assert "note:" not in said
    assert same(whole("set"), DATA)
    assert open_dataset(Path("set"), TASK).info.horizon == 200


def test_column_vectors_doubles_and_numbers_for_flags() -> None:
    with h5py.File("d.hdf5", "w") as file:
        for name, column in zip(NAMES, DATA, strict=True):
            values = column.numpy().astype(">f8" if name != "terminals" else np.uint8)
            file[name] = values[:, None] if values.ndim == 1 else values
        file["metadata/policy/name"] = "a string, as D4RL's files have"
    assert "note:" not in harden("data", "import", "d.hdf5", "--out", "set").output
    assert same(whole("set"), DATA)
    with h5py.File("d.hdf5", "r+") as file:
        file["rewards"][2] = 0.1
    assert "note: rounded to float32, which is what harden keeps: rewards" in (
        harden("data", "import", "d.hdf5", "--out", "rounded").output
    )
    with h5py.File("d.hdf5", "r+") as file:
        file["timeouts"][2] = 0.5
    assert "timeout holds values other than 0 and 1" in refused("data", "import", "d.hdf5", "--out", "bad")


def test_next_observations_are_derived_within_episodes_only() -> None:
    write_flat(Path("d.hdf5"), DATA, without=("next_observations",))
    said = harden("data", "import", "d.hdf5", "--out", "set").output
    assert "the last rows of 2 episodes that the time limit ended are dropped" in said
    # rows 2 and 9 are dropped, 1 and 8 end by the time limit now; 3 and 7 are terminals
    kept = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8])
    expected = Transitions(*(column[kept] for column in DATA))
    expected.timeouts[:] = torch.tensor([0, 1, 0, 0, 0, 0, 0, 1]).bool()
    expected.next_obs[[2, 6]] = expected.obs[[2, 6]]
    assert same(whole("set"), expected)


def test_an_episode_of_which_nothing_can_be_kept() -> None:
    write_flat(Path("d.hdf5"), counted([1, 1], ["timeout", "timeout"]), without=("next_observations",))
    assert "holds no episode of which anything can be kept" in refused(
        "data", "import", "d.hdf5", "--out", "set"
    )
    assert [path.name for path in Path().iterdir()] == ["d.hdf5"]


def test_costs_are_found_by_name_or_refused_with_names() -> None:
    write_flat(Path("d.hdf5"), DATA, without=("costs",), **{"infos/danger": DATA.costs.numpy()})
    said = refused("data", "import", "d.hdf5", "--out", "set")
    assert "cost=COST-COLUMN" in said
    assert "infos/danger" in said
    harden("data", "import", "d.hdf5", "--map", "cost=infos/danger", "--out", "set")
    assert same(whole("set"), DATA)
    said = refused("data", "import", "d.hdf5", "--map", "cost=infos/none", "--out", "b")
    assert "no column 'infos/none'" in said


def test_timeouts_that_a_file_lacks_come_from_the_horizon() -> None:
    data = counted([4, 2, 4, 3], ["timeout", "terminal", "terminal", "timeout"])
    write_flat(Path("d.hdf5"), data, without=("timeouts",))
    assert "--horizon" in refused("data", "import", "d.hdf5", "--out", "set")
    said = harden("data", "import", "d.hdf5", "--horizon", "4", "--out", "set").output
    assert "the last episode has no end in the file" in said
    assert same(whole("set"), data)


def test_timeouts_that_nobody_filled_come_from_the_horizon() -> None:
    data = counted([4, 4, 2], ["timeout"] * 3)
    write_flat(Path("d.hdf5"), data._replace(timeouts=torch.zeros(10, dtype=torch.bool)))
    said = refused("data", "import", "d.hdf5", "--out", "set")
    assert "flags no episode's end" in said
    assert "--horizon" in said
    said = harden("data", "import", "d.hdf5", "--horizon", "4", "--out", "set").output
    assert "note: the file flags no episode's end: an episode without a terminal ends after 4 steps" in said
    assert same(whole("set"), data)
    with h5py.File("d.hdf5", "r+") as file:
        file.attrs["horizon"] = 4
    harden("data", "import", "d.hdf5", "--out", "by-itself")
    assert same(whole("by-itself"), data)


@pytest.mark.parametrize("target", ["dsrl", "minari"])
def test_an_episode_longer_than_the_horizon_is_refused(stored: Path, target: str) -> None:
    harden("data", "export", "set", "--to", target, "--out", "out-v0")
    words = ["data", "import", "out-v0", "--from", target, "--out"]
    assert "the longest episode has 4 steps, the horizon is 3" in refused(*words, "back", "--horizon", "3")
    assert not Path("back").exists()
    harden(*words, "back", "--horizon", "4")
    assert open_dataset(Path("back")).info.horizon == 4


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("horizon", -5, "-5"),
        ("horizon", 2**40, "1099511627776"),
        ("horizon", "abc", "'abc'"),
        ("horizon", 1.5, "1.5"),
        ("seed", np.uint64(2**63), "9223372036854775808"),
        ("seed", "x", "'x'"),
        ("behaviour", [1, 2], "[1, 2]"),
        ("policy_digest", 7, "7"),
        ("env_id", [1, 2], "[1, 2]"),
    ],
)
def test_an_attribute_that_no_data_set_can_keep_is_named(name: str, value: object, shown: str) -> None:
    write_flat(Path("d.hdf5"), DATA)
    with h5py.File("d.hdf5", "r+") as file:
        file.attrs[name] = value
    said = refused("data", "import", "d.hdf5", "--out", "set")
    assert f"d.hdf5: attribute {name}" in said
    assert shown in said
    assert [path.name for path in Path().iterdir()] == ["d.hdf5"]
    if name == "horizon":
        # what the user says holds, whatever the file does
        harden("data", "import", "d.hdf5", "--horizon", "200", "--out", "set")
        assert open_dataset(Path("set")).info.horizon == 200
        assert "2147483647" in refused("data", "import", "d.hdf5", "--horizon", "3000000000", "--out", "x")


def test_attributes_as_other_tools_write_them() -> None:
    write_flat(Path("d.hdf5"), DATA)
    with h5py.File("d.hdf5", "r+") as file:
        file.attrs.update({"horizon": 200.0, "seed": np.array([7]), "behaviour": np.bytes_("random")})
    harden("data", "import", "d.hdf5", "--out", "set")
    info = open_dataset(Path("set")).info
    assert (info.horizon, info.shards[0].seed, info.shards[0].behaviour) == (200, 7, "random")


@pytest.mark.parametrize("steps", [-5, 2**40, "abc"])
def test_a_time_limit_of_minari_that_no_data_set_can_keep_is_named(stored: Path, steps: object) -> None:
    harden("data", "export", "set", "--to", "minari", "--out", "out-v0")
    about = Path("out-v0/data/metadata.json")
    told = json.loads(about.read_text())
    told["harden"]["horizon"] = steps
    about.write_text(json.dumps(told))
    said = refused("data", "import", "out-v0", "--out", "back")
    assert f"horizon = {steps!r}" in said
    harden("data", "import", "out-v0", "--horizon", "200", "--out", "back")
    assert open_dataset(Path("back")).info.horizon == 200


def test_rows_that_end_twice_are_terminals() -> None:
    twice = DATA._replace(timeouts=DATA.timeouts | DATA.terminals)
    write_flat(Path("d.hdf5"), twice)
    words = ["data", "import", "d.hdf5", "--out"]
    assert "--at-horizon" in refused(*words, "set")
    harden(*words, "set", "--at-horizon", "terminal")
    assert same(whole("set"), DATA)
    harden(*words, "other", "--at-horizon", "timeout")
    assert same(whole("other"), DATA._replace(timeouts=twice.timeouts, terminals=torch.zeros(10).bool()))


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=8), st.integers(1, 5))
def test_time_limits_by_counting(episodes: list[tuple[int, bool]], horizon: int) -> None:
    terminals = np.concatenate([np.r_[np.zeros(n - 1, bool), end] for n, end in episodes])
    age, expected = 0, []
    for terminal in terminals:
        age += 1
        expected.append(age == horizon and not terminal)
        if terminal or age == horizon:
            age = 0
    np.testing.assert_array_equal(limit_ends(terminals, horizon), expected)


def _no_group(file: h5py.File) -> None:
    del file["episode_1"]


def _short(file: h5py.File) -> None:
    del file["episode_1/observations"]
    file["episode_1/observations"] = np.zeros((1, TASK.obs_dim), np.float32)


def _early(file: h5py.File) -> None:
    file["episode_0/terminations"][0] = True


def _linked(file: h5py.File) -> None:
    del file["episode_1/infos/cost"]
    file["episode_1/infos/cost"] = h5py.ExternalLink("/etc/passwd", "/costs")


def _nested(file: h5py.File) -> None:
    del file["episode_0/observations"]
    file["episode_0/observations/left"] = np.zeros((4, 2))


def _no_costs(file: h5py.File) -> None:
    file["episode_2/infos"].move("cost", "danger")


def _virtual(file: h5py.File) -> None:
    del file["episode_1/infos/cost"]
    layout = h5py.VirtualLayout((2,), np.float32)
    layout[:] = h5py.VirtualSource("/etc/passwd", "costs", (2,))
    file.create_virtual_dataset("episode_1/infos/cost", layout)


def _one_more(file: h5py.File) -> None:
    file.copy("episode_0", "episode_4")


SPOILED: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "gap": (_no_group, "3 episodes"),
    "short": (_short, "different shapes"),
    "early": (_early, "ends before its last step"),
    "external link": (_linked, "leads to elsewhere"),
    "virtual": (_virtual, "virtual"),
    "more episodes than said": (_one_more, "5 episodes"),
    "nested": (_nested, "main_data.hdf5"),
    "no costs": (_no_costs, "it has: actions, infos/danger"),
    "metadata": (lambda _: Path("out-v0/data/metadata.json").write_text("[]"), "is not Minari's metadata"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_minari_folder_that_is_not_whole_is_refused(stored: Path, kind: str) -> None:
    harden("data", "export", "set", "--to", "minari", "--out", "out-v0")
    spoil, said = SPOILED[kind]
    with h5py.File("out-v0/data/main_data.hdf5", "r+") as file:
        spoil(file)
    assert said in refused("data", "import", "out-v0", "--from", "minari", "--out", "back")
    assert not Path("back").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "none.h5", "--out", "x"], "none.h5 is missing"),
        (["import", "set", "--out", "x"], "is a data set of harden already"),
        (["import", "empty", "--out", "x"], "empty holds no log"),
        (["import", "set*", "--out", "x"], "is a data set of harden already"),
        (["import", "none*", "--out", "x"], "none* is missing"),
        (["import", "other.h5", "--out", "x"], "it has: a, b"),
        (["import", "set/shard-00000.h5", "--out", "set"], "set is there already"),
        (["import", "set/shard-00000.h5", "--from", "minari", "--out", "x"], "metadata.json"),
        (["import", "text.h5", "--out", "x"], "can't be read as HDF5"),
        (["export", "set", "--to", "dsrl", "--out", "other.h5"], "other.h5 is there already"),
        (["export", "set", "--to", "minari", "--out", "plain"], "'plain' is no Minari id"),
        (["export", "none", "--to", "dsrl", "--out", "x"], "data set none is missing"),
    ],
)
def test_what_is_not_there_or_there_already(stored: Path, words: list[str], said: str) -> None:
    with h5py.File("other.h5", "w") as file:
        file["a"], file["b"] = [1.0], [2.0]
    Path("text.h5").write_text("reward,cost\n")
    Path("empty").mkdir()
    before = sorted(Path().rglob("*"))
    assert said in refused("data", *words)
    assert sorted(Path().rglob("*")) == before


_DSRL = """
import sys
import numpy as np
import gymnasium, dsrl
env = gymnasium.make("OfflineBallCircle-v0").unwrapped
found = env.get_dataset(sys.argv[1])
np.savez(sys.argv[2], **found)
env.pre_process_data(found)
"""


@pytest.mark.slow
def test_the_dsrl_package_reads_what_is_exported(stored: Path, record_property: Callable) -> None:
    # its extras want wheels that are not made any more: it comes alone, into a folder of its own
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", "site", "dsrl==0.1.0"]
    subprocess.run(pip, check=True)
    harden("data", "export", "set", "--to", "dsrl", "--out", "all.h5")
    environment = {"PYTHONPATH": "site", "PATH": "", "HOME": str(Path().absolute())}
    subprocess.run([sys.executable, "-c", _DSRL, "all.h5", "found.npz"], check=True, env=environment)
    with np.load("found.npz", allow_pickle=False) as found:
        assert sorted(found) == sorted(NAMES)
        for name, column in zip(NAMES, DATA, strict=True):
            np.testing.assert_array_equal(found[name], column.numpy())
    record_property("dsrl", "0.1.0")


def test_an_import_that_runs_out_of_room_leaves_no_data_set(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden("data", "export", "set", "--to", "dsrl", "--out", "all.h5")
    append = DatasetWriter.append

    def full(self: DatasetWriter, data: Transitions, **how: object) -> None:
        append(self, data, **how)  # type: ignore[arg-type]
        raise StorageError("no room")

    monkeypatch.setattr(DatasetWriter, "append", full)
    refused("data", "import", "all.h5", "--out", "back")
    assert sorted(path.name for path in Path().iterdir()) == ["all.h5", "set"]


def test_what_a_killed_import_left_is_cleared_away_and_what_a_running_one_fills_is_not(stored: Path) -> None:
    harden("data", "export", "set", "--to", "dsrl", "--out", "all.h5")
    # of a process that is gone: it holds no lock any more
    left = Path(f".harden-{7:016}.tmp")
    left.mkdir()
    Path(left, "shard-00000.h5").write_bytes(b"half")
    with whole_folder(Path("back")) as aside:
        (aside / "mine").write_text("")
        assert not left.exists()
        # another import of the same name, while this one is being filled
        words = [sys.executable, "-m", "harden", "data", "import", "all.h5", "--out", "back"]
        subprocess.run(words, check=True, capture_output=True)
        assert (aside / "mine").exists()
        assert open_dataset(Path("back")).verify() == []
        shutil.rmtree("back")
    assert Path("back/mine").exists()


def test_names_that_are_no_text_are_told_of(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["actions"] = [0.0]
        file[b"obs\xe9"] = [0.0]
    said = refused("data", "import", str(tmp_path / "odd.h5"), "--out", str(tmp_path / "set"))
    assert "it has: actions; " in said
