"""Forks a worker, kills it at a random moment and looks at what it left, over and over.

    python tests/support/nursery.py collect|train KILLS

It works in the current folder and writes counts.json. One process loads all once; its forks are killed.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from harden.config.pipeline import make_config
from harden.data.dataset import DatasetWriter, open_dataset
from harden.progress import Reporter
from harden.stages.collect import collect
from harden.stages.train import train
from harden.storage.files import digest_file
from harden.training.state import load_state
from harden.training.workspace import Workspace

CPU = torch.device("cpu")
Tell = Callable[[int], object]


def killed(work: Callable[[Tell], object], moment: float, counts: Counter[str]) -> int:
    """Fork, let the child work, and kill it; returns the last number that it told, which is its promise.

    Args:
        work: takes what tells a number, and never ends by itself.
        moment: seconds after the first number.
        counts: take in the kill, and how many numbers were told.
    """
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda number: os.write(saying, number.to_bytes(8, "big")))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(saying)
    words = os.read(said, 8)
    assert len(words) == 8, "the worker died by itself"
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    while more := os.read(said, 1 << 16):
        words += more
    os.close(said)
    assert len(words) % 8 == 0
    counts["kills"] += 1
    counts["acknowledged"] += len(words) // 8
    return int.from_bytes(words[-8:], "big")


def still_there(folder: Path, known: Mapping[str, str], shards: Mapping[str, str]) -> None:
    """Check that no finished shard is gone or another, and that new ones are what is written of them."""
    assert known.items() <= shards.items(), "a finished shard is gone or another"
    for name in shards.keys() - known.keys():
        assert digest_file(folder / name) == shards[name]


def collecting(kills: int) -> Counter[str]:
    """Kill collectors on one data set."""
    draw, place = random.Random(0), Workspace.named("run")
    config = make_config({"collect": {"envs": 1, "workers": 0, "behaviour": "random"}})

    def work(tell: Tell) -> None:
        while True:
            collect(config, place, episodes=1).work()
            tell(open_dataset(place.data).info.transitions)

    known: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for _ in range(kills):
        promised = killed(work, draw.uniform(0, 0.5), counts)
        counts["half-written"] += len(list(place.data.glob(".*.tmp")))
        listed = open_dataset(place.data).info.transitions
        assert listed >= promised, "acknowledged and lost"
        with DatasetWriter(place.data, config.task_row) as writer:
            counts["taken in"] += writer.info.transitions > listed
            shards = {shard.name: shard.sha256 for shard in writer.info.shards}
        still_there(place.data, known, shards)
        known = shards
        assert not list(place.data.glob(".*.tmp"))
    counts["shards"] = len(known)
    return counts


class Telling(Reporter):
    """Tells the number of each refresh when the run says that it is done."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(quiet=True)
        self.tell = tell

    def say(self, text: str) -> None:
        """Tell "refresh N/M ..." as N; whatever else is said is no promise."""
        if done := re.match(r"refresh (\d+)/", text):
            self.tell(int(done[1]))


def training(kills: int) -> Counter[str]:
    """Kill one training run, which goes on from its last refresh each time."""
    torch.set_num_threads(1)
    draw, place = random.Random(0), Workspace.named("run")
    steps = {"episodes": 1, "warm_up_episodes": 1, "rounds": 2, "states": 16, "warm_up_critic_steps": 1}
    config = make_config(
        {
            "collect": {"envs": 1, "workers": 0},
            "networks": {"policy_hidden": [8], "critic_hidden": [8]},
            "train": steps | {"env_steps": 10**8},
            "estep": {"particles": 4},
            "critics": {"batch": 16, "replay": 400},
        }
    )

    def work(tell: Tell) -> None:
        train(config, place, resume=place.state.is_file(), report=Telling(tell)).work()

    known: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for _ in range(kills):
        promised = killed(work, draw.uniform(0, 0.7), counts)
        left = list(place.run.glob("**/.*.tmp"))
        assert len(left) <= 1, "each killed run leaves another half-written file"
        counts["half-written"] += len(left) + len(list(place.data.glob(".*.tmp")))
        history = load_state(place.state, config, CPU)[1].history or []
        assert len(history) >= promised, "acknowledged and lost"
        assert [row["refresh"] for row in history] == list(range(1, len(history) + 1))
        shards = {shard.name: shard.sha256 for shard in open_dataset(place.data).info.shards}
        still_there(place.data, known, shards)
        known = shards
        counts["shards"], counts["refreshes"] = len(known), len(history)
    return counts


if __name__ == "__main__":
    found = {"collect": collecting, "train": training}[sys.argv[1]](int(sys.argv[2]))
    Path("counts.json").write_text(json.dumps(found))
