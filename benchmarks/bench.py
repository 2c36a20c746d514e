"""Speed beside the rivals, all of it in one run and one table of ratios, five repeats each.

    make bench

A repeat of each row times ours and the rival's in turn, on one core and one thread, so that whatever else
slows the machine slows both; ratios are taken within a repeat, below 1 where harden is faster. Rows:

- round: one EM round beside an update of FSRL's CVPO, in an environment of its own (`round.py`);
- attack: all states of a step of 50 episodes under mc, 50 steps from 5 corners, beside the authors' way, one
  state after another by Adam from one start (50 steps, without their stop rule); and beside plain PGD;
- evaluation: whole evaluations under mc and mr beside the same ones under plain PGD;
- reading: a data set beside h5py's reading of the same shards, numpy.load and Minari's of the same episodes;
- scale: info, verify, filter, merge and train's reading of ten million transitions beside copying the same
  bytes to the disk, and beside half as many rows; with the peak of memory;
- start-up: `harden --version`, and `harden evaluate` to its first simulated step, beside importing torch.

All files are removed. `--only attack reading` measures some parts anew, and leaves the others as they are.
"""

from __future__ import annotations

# before NumPy, whose threads it sets
import harden  # noqa: F401

# isort: split
import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import round as em_round
import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.attacks.objectives import OBJECTIVES
from harden.config.tasks import TASKS
from harden.data.dataset import Dataset, DatasetWriter
from harden.envs.rollout import Acted, rollout
from harden.envs.vector import VectorEnv
from harden.evaluation import trials
from harden.evaluation.entries import Trial
from harden.nets.saved import LoadedPolicy, load_policy
from harden.seeds import episode_seeds
from harden.storage.files import read_json, write_json
from harden.training.workspace import versions
from harden.types import Transitions

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/bench.json"
REPEATS, SHARD, EPISODE = 5, 250_000, 200
POLICIES = ("ball-circle/cvpo", "ball-circle/safer-long", "ant-run/cvpo", "ant-run/safer")
PLAIN = Strength(50, 5, 0.5, starts="corners")
SETTLING = Strength(50, 5, 1.0, starts="corners", settles=True)

# a repeat's seconds, ours and the rival's, by row
Pair = tuple[float, float]


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that work takes; what it returns is given back outside of them."""
    began = time.perf_counter()
    held = work()
    taken = time.perf_counter() - began
    del held
    return taken


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], turn: int) -> Pair:
    """Return the seconds of both, the first one another in every turn."""
    if turn % 2:
        other, own = timed(theirs), timed(ours)
        return own, other
    return timed(ours), timed(theirs)


def program(*words: str) -> tuple[float, float]:
    """Run Python on some words; returns its wall seconds and its peak memory in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)[:200]} ended with status {status}")
    return time.perf_counter() - began, used.ru_maxrss / 1024


# ---- round


def rounds(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of one EM round beside FSRL's update, and of fit-policy beside a bare loop."""
    result, count = em_round.measure(options.rival, REPEATS, options.updates), options.updates
    facts["round"] = {key: result[key] for key in ("what", "phases_ms", "rival") if key in result}
    seconds = result["seconds"]
    rows = {"fit-policy in a Trainer / in a bare loop": ("fit_policy_in_trainer", "fit_policy_bare")}
    if options.rival:
        rows |= {
            "round, two reward critics / FSRL's CVPO": ("harden", "fsrl"),
            "round, one reward critic / FSRL's CVPO": ("harden_one_reward_critic", "fsrl"),
        }
    for turn in range(REPEATS):
        yield {name: (seconds[a][turn] * count, seconds[b][turn] * count) for name, (a, b) in rows.items()}


# ---- attack


def states_of(victim: LoadedPolicy, task: str) -> Tensor:
    """Return 50 states that a policy visits, (50, obs_dim)."""

    def act(obs: Tensor, slots: Tensor) -> Acted:
        return Acted(victim.policy.mean(obs).detach(), obs)

    with VectorEnv(TASKS[task], 2, workers=0) as envs:
        obs = rollout(envs, act, episode_seeds(0, "bench", 0, 2).tolist()).transitions.obs
    return obs[:: len(obs) // 50][:50]


def one_by_one(victim: LoadedPolicy, obs: Tensor, epsilon: Tensor) -> None:
    """Attack one state after another as the authors' evaluator does: Adam, its backward into all weights.

    Source: Algorithm 3 as the ancestors implement it, the sign mended, without a stop rule: equal steps.
    """
    assert victim.critics is not None
    for state in obs.split(1):
        delta = torch.zeros_like(state, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=0.2)
        for _ in range(PLAIN.steps):
            optimizer.zero_grad()
            (-victim.critics.q_cost(state, victim.policy.mean(state + delta)).mean()).backward()
            optimizer.step()
            with torch.no_grad():
                delta.copy_(torch.maximum(torch.minimum(delta, epsilon), -epsilon))


def attacks(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of attacks; the share of the best gain that each way finds is among the facts."""
    victims = [load_policy(ROOT / "checkpoints/released" / name) for name in POLICIES]
    found: dict[str, dict[str, dict[str, float]]] = {}
    cases = []
    for name, victim in zip(POLICIES, victims, strict=True):
        task = TASKS[name.split("/")[0]]
        obs, epsilon = states_of(victim, task.name), torch.as_tensor(task.radius(task.epsilon))

        def search(
            attack: str,
            strength: Strength,
            seed: int,
            victim: LoadedPolicy = victim,
            obs: Tensor = obs,
            epsilon: Tensor = epsilon,
        ) -> Tensor:
            draw = torch.Generator().manual_seed(seed)
            return perturb(ATTACKS[attack], victim.policy, victim.critics, obs, epsilon, strength, draw)

        found[name] = shares(victim, obs, search)
        cases.append((name, victim, obs, epsilon, search))
    facts["share_of_the_best_gain"] = found
    for turn in range(REPEATS):
        rows = {}
        for name, victim, obs, epsilon, search in cases:
            for attack in ("mc", "mr"):
                fast, plain = (
                    lambda way=way, attack=attack, search=search, turn=turn: search(attack, way, turn)
                    for way in (SETTLING, PLAIN)
                )
                rows[f"{attack}, 50 x 5, {name} / plain PGD"] = in_turns(fast, plain, turn)
            some, own = obs[::10], (lambda search=search, turn=turn: search("mc", SETTLING, turn))
            ours, theirs = in_turns(own, lambda a=(victim, some, epsilon): one_by_one(*a), turn)
            rows[f"mc, 50 states, 50 x 5, {name} / the authors' loop, 50 x 1"] = ours, 10 * theirs
        yield rows


def shares(
    victim: LoadedPolicy, obs: Tensor, search: Callable[[str, Strength, int], Tensor]
) -> dict[str, dict[str, float]]:
    """Return the share of the best gain known, by attack and way, over three seeds."""
    rows = {}
    for attack in ("mc", "mr", "min-reward"):
        objective = OBJECTIVES[str(ATTACKS[attack].objective)]
        with torch.no_grad():
            clean = objective(victim.policy, victim.critics, obs, obs)

            def gain(
                strength: Strength,
                seed: int,
                name: str = attack,
                objective: Any = objective,
                clean: Tensor = clean,
            ) -> Tensor:
                return objective(victim.policy, victim.critics, obs, search(name, strength, seed)) - clean

            ways = {"plain": PLAIN, "settling": SETTLING}
            gains = {name: torch.stack([gain(way, seed) for seed in range(3)]) for name, way in ways.items()}
            best = torch.cat([*gains.values(), gain(PLAIN._replace(restarts=40), 3)[None]]).amax(0)
        rows[attack] = {
            name: round(float(value.mean(0).sum() / best.sum()), 4) for name, value in gains.items()
        }
    return rows


# ---- evaluation


def evaluations(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of the trials of an evaluation, simulation in this process included."""
    costs: dict[str, list[float]] = {"plain": [], "settling": []}
    for turn in range(REPEATS):
        rows = {}
        for name in ("ball-circle/cvpo", "ant-run/safer"):
            task = TASKS[name.split("/")[0]]
            victim = trials.Victim(*load_policy(ROOT / "checkpoints/released" / name)[:2])

            def trial(
                strength: Strength, victim: trials.Victim = victim, task: Any = task, turn: int = turn
            ) -> list[float]:
                seeds = episode_seeds(turn, "evaluate", 0, 10).tolist()
                how = Trial(10, task.epsilon, strength, "mean", turn)
                with VectorEnv(task, 10, workers=0) as envs:
                    runs = [
                        rollout(
                            envs, trials.actor(attack, victim, how, task, torch.device("cpu"), None), seeds
                        )
                        for attack in ("mc", "mr")
                    ]
                return [float(run.costs.mean()) for run in runs]

            fast, plain = (
                lambda key=key, way=way, trial=trial: costs[key].extend(trial(way))
                for key, way in (("settling", SETTLING), ("plain", PLAIN))
            )
            rows[f"mc and mr, 10 episodes, {name} / with plain PGD"] = in_turns(fast, plain, turn)
        yield rows
    facts["mean_cost_of_evaluations"] = {key: statistics.mean(values) for key, values in costs.items()}


# ---- reading and scale


def transitions(rows: int, seed: int) -> Transitions:
    """Return made-up episodes: smooth walks of eight coordinates."""
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


def reading(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of reading: a million rows beside h5py and NumPy, 100,000 beside Minari; warm files."""
    import minari

    folder = Path(options.folder)
    make(folder / "reading", 1_000_000)
    make(folder / "few", 100_000)
    words = "data", "export", str(folder / "few"), "--to", "minari", "--out", str(folder / "minari/few-v0")
    program("-m", "harden", *words)
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    arrays = [folder / f"{name}.npy" for name in Transitions._fields]
    for path, column in zip(arrays, Dataset(folder / "reading").read(0, 1_000_000), strict=True):
        np.save(path, column.numpy())

    def by_h5py() -> list[dict[str, np.ndarray]]:
        shards = []
        for path in sorted((folder / "reading").glob("*.h5")):
            with h5py.File(path) as file:
                shards.append({name: file[name][:] for name in file})
        return shards

    def by_minari() -> list[Any]:
        return list(minari.load_dataset("few-v0").iterate_episodes())

    def ours(name: str) -> Transitions:
        return Dataset(folder / name).recent(1_000_000)

    for turn in range(REPEATS + 1):
        rows = {
            "reading 1,000,000 rows / h5py": in_turns(lambda: ours("reading"), by_h5py, turn),
            "reading 1,000,000 rows / numpy.load": in_turns(
                lambda: ours("reading"), lambda: [np.load(path) for path in arrays], turn
            ),
            "reading 100,000 rows / Minari": in_turns(lambda: ours("few"), by_minari, turn),
        }
        if turn:  # the first one warms the cache
            yield rows


def copied(folder: Path, out: Path) -> float:
    """Return the seconds of copying a folder's bytes to the disk."""
    began = time.perf_counter()
    with out.open("wb") as file:
        for path in sorted(folder.iterdir()):
            with path.open("rb") as given:
                shutil.copyfileobj(given, file, 2**20)
        file.flush()
        os.fsync(file.fileno())
    taken = time.perf_counter() - began
    out.unlink()
    return taken


def scale(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of what goes through a large data set, each in a process of its own."""
    folder, large = Path(options.folder), options.large
    sizes = {"half": large // 2, "whole": large}
    for name, rows in sizes.items():
        make(folder / name, rows)
    peaks: dict[str, float] = {}
    reads = (
        "import sys; from pathlib import Path; from harden.data.dataset import Dataset;"
        " Dataset(Path(sys.argv[1])).recent(2_000_000)"
    )
    for _ in range(REPEATS):
        taken: dict[tuple[str, str], float] = {}
        for size in sizes:
            data, out = str(folder / size), folder / "out"
            taken["copy", size] = copied(folder / size, folder / "copy")
            works = {
                "info": ("-m", "harden", "data", "info", data),
                "verify": ("-m", "harden", "data", "verify", data),
                "filter": ("-m", "harden", "data", "filter", data, "--max-cost", "150", "--out", str(out)),
                "merge": ("-m", "harden", "data", "merge", data, "--out", str(out)),
                "train's reading": ("-c", reads, data),
            }
            for name, words in works.items():
                taken[name, size], peak = program(*words)
                peaks[name] = max(peaks.get(name, 0.0), peak)
                shutil.rmtree(out, ignore_errors=True)
        rows = {}
        for name in works:
            whole = taken[name, "whole"]
            rows[f"{name}, {large:,} rows / copying the bytes"] = whole, taken["copy", "whole"]
            rows[f"{name}, {large:,} rows / half as many"] = whole, taken[name, "half"]
        yield rows
    facts["peak_memory_mib"] = {name: round(peak) for name, peak in peaks.items()}


# ---- start-up

# ends where the first simulated step would begin
FIRST_STEP = (
    "import os, sys, harden.envs.vector as v; v.VectorEnv.step = lambda *_: os._exit(0);"
    "from harden.__main__ import main; main()"
)


def startup(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Pair]]:
    """Yield repeats of beginning: the command line, and an evaluation up to its first step."""
    folder = ROOT / "checkpoints/released/ball-circle/cvpo"
    words = "evaluate", "-p", "pipelines/ball-circle.toml", "--policy", str(folder), "--quiet"
    seconds = []
    for turn in range(REPEATS):
        torch_alone = program("-c", "import torch")[0]
        first = program("-c", FIRST_STEP, *words)[0]
        seconds.append(first)
        bare = lambda: program("-c", "import click, importlib.metadata")  # noqa: E731
        yield {
            "harden evaluate, 50 episodes, to its first step / import torch": (first, torch_alone),
            "harden --version / import click": in_turns(
                lambda: program("-m", "harden", "--version"), bare, turn
            ),
        }
    facts["seconds_to_the_first_step"] = [round(value, 2) for value in seconds]


PARTS = {
    "start-up": startup,
    "round": rounds,
    "attack": attacks,
    "evaluation": evaluations,
    "reading": reading,
    "scale": scale,
}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [f"{'ours / rival':<72} {'ours':>9} {'rival':>9} {'ratio':>7}  of five repeats"]
    for row in rows:
        low, high = row["spread"]
        ours, theirs = (f"{1e3 * row[key]:.1f}ms" for key in ("ours_s", "rival_s"))
        lines.append(f"{row['name']:<72} {ours:>9} {theirs:>9} {row['ratio']:>7.3f}  {low:.3f} to {high:.3f}")
    return "\n".join(lines)


def summary(name: str, part: str, pairs: list[Pair]) -> dict[str, Any]:
    """Return a row of the table: medians, and the spread of the ratios."""
    ratios = [ours / theirs for ours, theirs in pairs]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    ratio = round(statistics.median(ratios), 3)
    return {"part": part, "name": name, "ours_s": ours, "rival_s": theirs, "ratio": ratio, "spread": spread}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rival", help="Python of an environment with fast-safe-rl")
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure"
    )
    parser.add_argument("--updates", type=int, default=60, help="updates a repeat of a round")
    parser.add_argument("--large", type=int, default=10_000_000, help="transitions of the scale part")
    parser.add_argument("--folder", type=Path, help="where files of up to 3 GB are made for a while")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    # one core, the same for all
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    result: dict[str, Any] = read_json(options.json, "make bench") if options.json.exists() else {}
    for part in options.only:
        began, facts, pairs = time.perf_counter(), dict[str, Any](), dict[str, list[Pair]]()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            given = argparse.Namespace(**{**vars(options), "folder": folder})
            for repeat in PARTS[part](given, facts):
                for name, pair in repeat.items():
                    pairs.setdefault(name, []).append(pair)
        rows = [summary(name, part, values) for name, values in pairs.items()]
        others = [row for row in result.get("rows", []) if row["part"] != part]
        result["rows"] = sorted(others + rows, key=lambda row: list(PARTS).index(row["part"]))
        took = round(time.perf_counter() - began, 1)
        result.setdefault("facts", {})[part] = facts | {"took_s": took, "versions": versions()}
        print(table(rows), f"({part}: {took:.0f} s)\n", facts, sep="\n", flush=True)
        write_json(options.json, result)
    print(table(result["rows"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"-> {options.json} (this process held {peak:.0f} MiB at most)")


if __name__ == "__main__":
    main()
