"""A sweep on a real Ray cluster: a head and two workers here, one of which is killed at its work."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harden.benchmark.ledger import read_ledger
from support.commands import harden
from support.sweep import SWEEP, WORDS

pytestmark = pytest.mark.slow


def test_a_worker_killed_at_its_work_is_replaced_and_a_failure_sinks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ledger, killed = tmp_path / "benchmarks/results/ledger", []

    def kill() -> None:
        """Kill a worker once both are in the middle of a run: two have a curve and none is finished."""
        until = time.monotonic() + 900
        while time.monotonic() < until:
            under_way = list((tmp_path / "runs").rglob("learning_curve.csv"))
            if len(under_way) == 2:
                done = [e for e in read_ledger(ledger).values() if e["status"] == "finished"]
                cluster.remove_node(workers[0], allow_graceful=False)
                killed.append((len(done), [path.read_text().count("\n") for path in under_way]))
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        # 30 refreshes: long enough to be killed in the middle
        words: list[Any] = [*SWEEP[:7], "0,1", *WORDS, "--set", "train.env_steps=12000", "--label", "tiny"]
        said = harden(*words, "--executor", "ray", code=1).output
    finally:
        killer.join()
        cluster.shutdown()
    ((done, lines),) = killed
    assert done == 0
    assert max(lines) < 31, "both runs were under way"
    entries = read_ledger(ledger).values()
    assert sorted((e["variant"], e["seed"], e["status"]) for e in entries) == [
        ("cvpo", 0, "finished"),
        ("cvpo", 1, "finished"),
        ("ppol", 0, "failed"),
        ("ppol", 1, "failed"),
    ]
    for entry in entries:
        if entry["status"] == "finished":
            assert entry["trained"]["curve"]["env_steps"] == [400 * (i + 1) for i in range(30)]
    assert "2 of 4 runs failed" in said
