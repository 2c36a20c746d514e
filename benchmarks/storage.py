"""How fast stored data are read, by layout, and what training from more than memory costs.

    python benchmarks/storage.py --json benchmarks/results/storage.json

Reading: the same transitions as .npy files and as shards, warm in the cache, least processor seconds.
Training: `train --offline` on a large and on a small data set of the same kind, each in a process of its own,
from the same seed. Other work on the machine moves wall times: processor seconds are given too. All files
are removed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from harden.data import Dataset, DatasetWriter, draw_rows
from harden.files import write_json
from harden.pipeline_file import find_pipeline, load_config
from harden.progress import Reporter
from harden.stages.train import train
from harden.stages.workspace import versions, workspace
from harden.tasks import TASKS
from harden.types import Transitions

SHARD, EPISODE, BLOCK = 100_000, 200, 1000
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks of 1,000 rows": {"chunks": BLOCK},
    "chunks, lzf": {"chunks": BLOCK, "compression": "lzf", "shuffle": True},
    "chunks, gzip 1": {"chunks": BLOCK, "compression": "gzip", "compression_opts": 1, "shuffle": True},
}


def transitions(rows: int, seed: int) -> Transitions:
    """Return made-up episodes: smooth walks, which compress about as a simulation's floats do."""
    draw = torch.Generator().manual_seed(seed)
    steps = 0.05 * torch.randn(rows, 8, generator=draw)
    obs = steps.view(-1, EPISODE, 8).cumsum(1).view(rows, 8)
    actions = torch.randn(rows, 2, generator=draw).clamp(-1, 1)
    timeouts = torch.arange(1, rows + 1) % EPISODE == 0
    costs = (obs[:, 0].abs() > 1).float()
    next_obs = torch.cat((obs[1:], obs[:1]))
    return Transitions(obs, actions, obs[:, 1], costs, next_obs, torch.zeros_like(timeouts), timeouts)


def make(folder: Path, rows: int) -> None:
    """Write a data set, shard by shard."""
    with DatasetWriter(folder, TASKS["ball-circle"]) as writer:
        for number, start in enumerate(range(0, rows, SHARD)):
            data = transitions(min(SHARD, rows - start), number)
            writer.append(data, seed=number, policy_digest="", behaviour="imported")


def best(work: Callable[[], object], times: int = 5) -> float:
    """Return the least processor seconds: files are warm, and wall time is other programs' as well."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def layouts(folder: Path) -> dict[str, Any]:
    """Return megabytes and milliseconds of one shard in each layout: written, read whole, read in blocks."""
    arrays = {name: column.numpy() for name, column in transitions(SHARD, 0)._asdict().items()}
    places = np.random.default_rng(0).integers(0, SHARD // BLOCK, 50) * BLOCK
    found = {}
    for label, options in LAYOUTS.items():
        path = folder / "layout.h5"

        def write(path: Path = path, options: dict[str, Any] = options) -> None:
            with h5py.File(path, "w") as file:
                for name, values in arrays.items():
                    chunk = {"chunks": (options["chunks"], *values.shape[1:])} if options else {}
                    file.create_dataset(name, data=values, **(options | chunk))

        def read(starts: list[int], rows: int, path: Path = path) -> None:
            with h5py.File(path) as file:
                for start in starts:
                    for name in arrays:
                        file[name][start : start + rows]

        written = best(write, 3)
        found[label] = {
            "megabytes": path.stat().st_size / 1e6,
            "write_ms": 1e3 * written,
            "read_ms": 1e3 * best(lambda read=read: read([0], SHARD)),
            "blocks_ms": 1e3 * best(lambda read=read: read(places.tolist(), BLOCK)),
        }
    return found


def reading(folder: Path, rows: int) -> dict[str, Any]:
    """Return how fast a data set is read, beside numpy.load on the same bytes."""
    make(folder / "set", rows)
    dataset = Dataset(folder / "set")
    whole = dataset.read(0, rows)
    size = sum(column.numel() * column.element_size() for column in whole)
    files = []
    for name, column in whole._asdict().items():
        files.append(folder / f"{name}.npy")
        np.save(files[-1], column.numpy())
    del whole
    plain = best(lambda: [np.load(file) for file in files])
    ours = best(lambda: dataset.read(0, rows))
    by_shard = best(lambda: [None for _ in dataset.shards()])
    draw = torch.Generator().manual_seed(0)
    blocks = best(lambda: draw_rows(dataset, rows // 5, draw), 3)
    return {
        "rows": rows,
        "megabytes": size / 1e6,
        "numpy_load_mb_s": size / plain / 1e6,
        "shard_by_shard_mb_s": size / by_shard / 1e6,
        "in_one_piece_mb_s": size / ours / 1e6,
        "random_stretches_mb_s": size / 5 / blocks / 1e6,
        "share_of_numpy_load": plain / by_shard,
    }


def trained(folder: Path, data: Path, keys: list[str]) -> dict[str, Any]:
    """Return what offline training takes in this process."""
    torch.set_num_threads(1)
    config = load_config(find_pipeline(Path("offline")), keys)
    began = resource.getrusage(resource.RUSAGE_SELF)
    done = train(
        config, workspace("run", folder), device=torch.device("cpu"), data=data, report=Reporter(True)
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rounds": config.train.rounds * len(done.history),
        "refreshes_s": done.history[-1]["seconds"],
        "processor_s": used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime,
        "peak_resident_mib": used.ru_maxrss / 1024,
    }


def training(folder: Path, large: int, keys: list[str]) -> dict[str, Any]:
    """Return what training takes from a data set that fits, and from one of `large` rows."""
    found: dict[str, Any] = {}
    for name, rows in (("fits", SHARD), ("large", large)):
        make(folder / name, rows)
        words = [sys.executable, __file__, "--child", str(folder / f"run-{name}"), str(folder / name), *keys]
        child = subprocess.run(words, check=True, capture_output=True, text=True)
        found[name] = {"transitions": rows} | json.loads(child.stdout.splitlines()[-1])
    for kind in ("refreshes_s", "processor_s"):
        found[f"throughput_kept_{kind}"] = found["fits"][kind] / found["large"][kind]
    return found


def main() -> None:
    """Measure, print, and write the JSON."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(trained(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions that are read")
    parser.add_argument("--large", type=int, default=10_000_000, help="transitions that are trained from")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keys = ["train.rounds=150", "offline.refreshes=4", "offline.rows=100000", "imitation.steps=400"]
    keys += ["evaluate.attack_steps=5", "evaluate.restarts=1"]
    torch.set_num_threads(1)
    result: dict[str, Any] = {"command": f"python benchmarks/storage.py --json {options.json}"}
    for name, work in (
        ("layouts_of_a_shard", layouts),
        ("reading", lambda folder: reading(folder, options.rows)),
        ("training", lambda folder: training(folder, options.large, keys)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = work(Path(folder))
        print(json.dumps(result[name], indent=2), flush=True)
    result |= {"keys": keys, "versions": versions()}
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
