"""kill -9 at random moments, collecting and training: nothing finished or acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harden.data import open_dataset

# one process loads everything once and forks the collectors, which are what is killed
_NURSERY = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
from harden.config import make_config
from harden.data import DatasetWriter, open_dataset
from harden.files import digest_file
from harden.progress import Reporter
from harden.stages.collect import collect
from harden.stages.workspace import workspace

kills = int(sys.argv[1])
draw = random.Random(0)
place = workspace("run")
config = make_config({"collect": {"envs": 1, "workers": 0, "behaviour": "random"}})
known, counts = {}, {"kills": 0, "acknowledged": 0, "taken in": 0, "half-written": 0}
while counts["kills"] < kills:
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            while True:
                collect(config, place, episodes=1, report=Reporter(True))
                os.write(saying, open_dataset(place.data).info.transitions.to_bytes(8, "big"))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(saying)
    # the first word says that it is collecting: the moment is drawn from then on
    words = os.read(said, 8)
    assert len(words) == 8, "the collector died by itself"
    time.sleep(draw.uniform(0, 0.5))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    while more := os.read(said, 1 << 16):
        words += more
    os.close(said)
    assert len(words) % 8 == 0
    counts["kills"] += 1
    counts["acknowledged"] += len(words) // 8
    counts["half-written"] += len(list(place.data.glob(".*.tmp")))
    listed = open_dataset(place.data).info.transitions
    assert listed >= int.from_bytes(words[-8:], "big"), "acknowledged and lost"
    with DatasetWriter(place.data, config.task_row) as writer:
        counts["taken in"] += writer.info.transitions > listed
        names = {shard.name: shard.sha256 for shard in writer.info.shards}
        assert known.items() <= names.items(), "a finished shard is gone or another"
        for name in names.keys() - known.keys():
            assert digest_file(place.data / name) == names[name]
        known = names
        assert not list(place.data.glob(".*.tmp"))
counts["shards"] = len(known)
Path("counts.json").write_text(json.dumps(counts))
"""


# training goes on from its last refresh each time; a refresh is acknowledged when the run says it is done
_TRAINING = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
import torch
from harden.config import make_config
from harden.data import open_dataset
from harden.files import digest_file
from harden.learner import load_state
from harden.progress import Reporter
from harden.stages.train import train
from harden.stages.workspace import workspace

kills = int(sys.argv[1])
cpu, draw, place = torch.device("cpu"), random.Random(0), workspace("run")
torch.set_num_threads(1)
keys = {"envs": 1, "workers": 0}, {"policy_hidden": [8], "critic_hidden": [8]}
steps = {"episodes": 1, "warm_up_episodes": 1, "rounds": 2, "states": 16, "warm_up_critic_steps": 1}
tree = {"collect": keys[0], "networks": keys[1], "train": steps | {"env_steps": 10**8}}
config = make_config(tree | {"estep": {"particles": 4}, "critics": {"batch": 16, "replay": 400}})
known, counts = {}, {"kills": 0, "acknowledged": 0, "half-written": 0}


class Telling(Reporter):
    def __init__(self, pipe):
        super().__init__(quiet=True)
        self.pipe = pipe

    def say(self, text):
        os.write(self.pipe, int(text.split("/")[0].split()[1]).to_bytes(8, "big"))


while counts["kills"] < kills:
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            train(config, place, device=cpu, resume=place.state.is_file(), report=Telling(saying))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(saying)
    words = os.read(said, 8)
    assert len(words) == 8, "the training died by itself"
    time.sleep(draw.uniform(0, 0.7))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    while more := os.read(said, 1 << 16):
        words += more
    os.close(said)
    counts["kills"] += 1
    counts["acknowledged"] += len(words) // 8
    left = list(place.run.glob("**/.*.tmp"))
    assert len(left) <= 1, "each killed run leaves another half-written file"
    counts["half-written"] += len(left) + len(list(place.data.glob(".*.tmp")))
    _, about = load_state(place.state, config, cpu)
    last = int.from_bytes(words[-8:], "big")
    assert len(about["history"]) >= last, "acknowledged and lost"
    assert [row["refresh"] for row in about["history"]] == list(range(1, len(about["history"]) + 1))
    shards = {shard.name: shard.sha256 for shard in open_dataset(place.data).info.shards}
    assert known.items() <= shards.items(), "a finished shard is gone or another"
    for name in shards.keys() - known.keys():
        assert digest_file(place.data / name) == shards[name]
    known = shards
counts["shards"], counts["refreshes"] = len(known), len(about["history"])
Path("counts.json").write_text(json.dumps(counts))
"""


def kill_training(folder: Path, times: int) -> dict[str, int]:
    """Kill one training run over and over; returns what was counted."""
    subprocess.run([sys.executable, "-c", _TRAINING, str(times)], cwd=folder, check=True)
    assert open_dataset(folder / "datasets/run").verify() == []
    counts = json.loads((folder / "counts.json").read_text())
    # a refresh that was collected and not finished is taken up again, not collected once more
    assert counts["refreshes"] <= counts["shards"] <= counts["refreshes"] + 1
    assert counts["refreshes"] >= counts["acknowledged"] >= times
    return counts


def test_a_few_moments_of_training(tmp_path: Path) -> None:
    kill_training(tmp_path, 3)


@pytest.mark.slow
def test_two_hundred_moments_of_training(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("counts", kill_training(tmp_path, 200))


def kill(folder: Path, times: int) -> dict[str, int]:
    """Kill collectors on one data set; returns what was counted."""
    subprocess.run([sys.executable, "-c", _NURSERY, str(times)], cwd=folder, check=True)
    dataset = open_dataset(folder / "datasets/run")
    assert dataset.verify() == []
    counts = json.loads((folder / "counts.json").read_text())
    assert counts["kills"] == times
    assert counts["shards"] >= counts["acknowledged"] >= times
    return counts


def test_a_few_moments(tmp_path: Path) -> None:
    kill(tmp_path, 3)


@pytest.mark.slow
def test_two_hundred_moments(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    counts = kill(tmp_path, 200)
    record_property("counts", counts)
