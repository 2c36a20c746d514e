"""How fast stored data are read, by layout, and what training from more than memory costs.

    python benchmarks/storage.py --json benchmarks/results/storage.json [--only reading]

Reading: the same transitions as .npy files and as shards, warm in the cache, both into memory, in turns; the
medians are compared. Training: `train --offline` on a large and on a small data set of the same kind, in
turns too, each in a process of its own. Other work on the machine moves wall times: processor seconds are
given as well. With --only the other parts of the JSON stay as they are. All files are removed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
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

from harden.config.file import find_pipeline, load_config
from harden.config.tasks import TASKS
from harden.data import Dataset, DatasetWriter
from harden.stages.train import train
from harden.storage.files import write_json
from harden.training.workspace import Workspace, versions
from harden.types import Transitions

# rows of a large shard, of one that a refresh of training adds, of an episode, of a stretch
SHARD, SMALL_SHARD, EPISODE, BLOCK = 250_000, 4000, 200, 1000
FITS = 100_000
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


def make(folder: Path, rows: int, shard: int = SHARD) -> None:
    """Write a data set, shard by shard."""
    with DatasetWriter(folder, TASKS["ball-circle"]) as writer:
        for number, start in enumerate(range(0, rows, shard)):
            data = transitions(min(shard, rows - start), number)
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


def turns(works: dict[str, Callable[[], object]], times: int) -> dict[str, dict[str, float]]:
    """Let each do its work once a turn; returns the medians of wall and processor milliseconds."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(times + 2):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            held = work()
            spent = time.perf_counter() - wall, time.process_time() - processor
            del held  # what was read is given back outside the measurement
            # the first turns warm the cache
            if turn >= 2:
                taken[name].append(spent)
    medians = {name: np.median(np.array(times), axis=0) for name, times in taken.items()}
    return {
        name: {"wall_ms": 1e3 * float(wall), "processor_ms": 1e3 * float(processor)}
        for name, (wall, processor) in medians.items()
    }


def save_columns(folder: Path, data: Transitions) -> list[Path]:
    """Write one .npy file a column."""
    folder.mkdir(parents=True)
    files = [folder / f"{name}.npy" for name in data._fields]
    for file, column in zip(files, data, strict=True):
        np.save(file, column.numpy())
    return files


def load(files: list[Path]) -> list[np.ndarray]:
    """Return arrays in memory."""
    return [np.load(file) for file in files]


def beside_numpy(folder: Path, rows: int, shard: int, times: int) -> dict[str, Any]:
    """Return how fast a data set in shards of `shard` rows is read, beside numpy.load on the same bytes."""
    make(folder / "set", rows, shard)
    opened = Dataset(folder / "set")
    whole = save_columns(folder / "whole", opened.read(0, rows))
    parts = [save_columns(folder / entry.name, data) for entry, data in opened.shards()]
    size = sum(file.stat().st_size for file in whole)

    def each(dataset: Dataset) -> None:
        for _ in dataset.shards():
            pass

    def load_each() -> None:
        for files in parts:
            load(files)

    found = turns(
        {
            "numpy_whole": lambda: load(whole),
            "harden_whole": lambda: Dataset(folder / "set").read(0, rows),
            "numpy_by_shard": load_each,
            "harden_by_shard": lambda: each(Dataset(folder / "set")),
        },
        times,
    )
    for name, entry in found.items():
        entry["mb_s"] = size / entry["wall_ms"] / 1e3
        if name.startswith("harden"):
            theirs = found["numpy_whole" if "whole" in name else "numpy_by_shard"]
            entry["share_of_numpy_load"] = theirs["wall_ms"] / entry["wall_ms"]
            entry["share_by_processor"] = theirs["processor_ms"] / entry["processor_ms"]
    return {"rows": rows, "rows_a_shard": shard, "megabytes": size / 1e6, "turns": times} | found


def reading(folder: Path, rows: int, times: int) -> dict[str, Any]:
    """Return how fast data sets are read: in large shards and in those of training."""
    large = beside_numpy(folder / "large", rows, SHARD, times)
    small = beside_numpy(folder / "small", rows // 10, SMALL_SHARD, times)
    return {
        "large_shards": large,
        "small_shards": small,
        "share_of_numpy_load": min(
            large[name]["share_of_numpy_load"] for name in ("harden_whole", "harden_by_shard")
        ),
    }


def trained(folder: Path, data: Path, keys: list[str]) -> dict[str, Any]:
    """Return what offline training takes in this process."""
    torch.set_num_threads(1)
    config = load_config(find_pipeline(Path("offline")), keys)
    began = resource.getrusage(resource.RUSAGE_SELF)
    done = train(config, Workspace.named("run", folder), data=data).work()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rounds": config.train.rounds * len(done.history),
        "refreshes_s": done.history[-1]["seconds"],
        "processor_s": used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime,
        "peak_resident_mib": used.ru_maxrss / 1024,
    }


def training(folder: Path, large: int, keys: list[str]) -> dict[str, Any]:
    """Return what training takes from a data set that fits, and from one of `large` rows, twice in turns."""
    sizes = {"fits": FITS, "large": large}
    for name, rows in sizes.items():
        make(folder / name, rows)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sizes}
    for turn in range(2):
        for name in sizes:
            run = folder / f"run-{name}-{turn}"
            words = [sys.executable, __file__, "--child", str(run), str(folder / name), *keys]
            child = subprocess.run(words, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(child.stdout.splitlines()[-1]))
    found: dict[str, Any] = {name: {"transitions": sizes[name], "runs": runs[name]} for name in sizes}
    least = {
        name: {kind: min(run[kind] for run in runs[name]) for kind in ("refreshes_s", "processor_s")}
        for name in sizes
    }
    for kind in ("refreshes_s", "processor_s"):
        found[f"throughput_kept_{kind}"] = least["fits"][kind] / least["large"][kind]
    found["peak_resident_mib"] = max(run["peak_resident_mib"] for run in runs["large"])
    return found


KEYS = ["train.rounds=150", "offline.refreshes=4", "offline.rows=100000", "imitation.steps=400"]
KEYS += ["evaluate.attack_steps=5", "evaluate.restarts=1"]


def main() -> None:
    """Measure, print, and write the JSON."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(trained(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])))
        return
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "layouts": layouts,
        "reading": lambda folder: reading(folder, options.rows, options.turns),
        "training": lambda folder: {"keys": KEYS} | training(folder, options.large, KEYS),
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions that are read")
    parser.add_argument("--turns", type=int, default=15, help="times that they are read in each way")
    parser.add_argument("--large", type=int, default=10_000_000, help="transitions that are trained from")
    parser.add_argument(
        "--only", nargs="+", choices=list(parts), default=list(parts), help="parts to measure"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    if options.json and options.json.exists():
        result = json.loads(options.json.read_text())
    for name in options.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result[name] = parts[name](Path(folder))
        took = {"took_s": time.perf_counter() - began, "date": datetime.date.today().isoformat()}
        result[name] |= took | {"versions": versions(), "processors": os.cpu_count()}
        print(json.dumps({name: result[name]}, indent=2), flush=True)
        if options.json:
            write_json(options.json, result)


if __name__ == "__main__":
    main()
