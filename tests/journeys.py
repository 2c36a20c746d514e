"""The three journeys of a person with a simulator, a policy or logs of their own, run as they are typed.

    python tests/journeys.py [FOLDER]

In a new folder it makes what such a person has, without harden: the simulator of docs/your-own-simulator.md,
a policy as ONNX that is good and reckless, and logs of it as Parquet. Then it types the commands, with sizes
for minutes instead of an hour, and checks what came out. On a machine that has nothing yet:

    sh .ci/install.sh new && new/bin/python tests/journeys.py
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/your-own-simulator.md"
SIZES = {
    "train.env_steps": 6000,
    "train.rounds": 60,
    "train.warm_up_critic_steps": 200,
    "train.final_critic_steps": 400,
    "critics.steps": 800,
    "world.first_steps": 400,
    "world.steps": 50,
    "offline.refreshes": 3,
    "offline.world_steps": 2000,
    "imitation.steps": 2000,
    "evaluate.episodes": 10,
    "evaluate.attack_steps": 10,
    "evaluate.restarts": 2,
    "evaluate.queries": 50,
    "evaluate.independent_episodes": 20,
    "evaluate.independent_steps": 800,
}
SIMULATOR = """
harden init --env robot:Robot --set task.cost_limit=5 --set task.epsilon=0.05 --set task.horizon=200
harden train -p Robot
harden evaluate -p Robot --attack mc,random
harden render -p Robot --attack mc --out checkpoints/Robot/evaluation.gif
harden report Robot --out simulator.html
harden status -p Robot
"""
POLICY = """
harden policy info -p mine.toml actor.onnx
harden evaluate -p mine.toml --policy actor.onnx --attack mc,random --json before.json
harden train -p mine.toml --init actor.onnx
harden evaluate -p mine.toml --attack mc,random --json after.json
harden report --compare before.json after.json --out policy.html
harden policy export checkpoints/mine/policy --to onnx --out robot.onnx
"""
LOGS = """
harden data import logs.parquet --map obs=o_*,action=a_*,reward=r,cost=speeding,episode=ep --out logs
harden train -p logged.toml --offline --data logs --init actor.onnx
harden evaluate -p logged.toml --data logs --attack mc,random --json imagined.json
harden report imagined.json --out logs.html
"""


def bring(folder: Path) -> None:
    """Write what the person has: robot.py, mine.toml, logged.toml, actor.onnx, logs.parquet."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    import torch

    page = PAGE.read_text()
    (folder / "robot.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0])
    (folder / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.S)[0])
    # no simulator: what the task is has to be said
    (folder / "logged.toml").write_text(
        '[task]\nname = "cart"\nhorizon = 200\ncost_limit = 5\nepsilon = 0.05\nobs_dim = 2\nact_dim = 1\n'
        "action_low = [-2.0]\naction_high = [2.0]\n"
    )
    torch.manual_seed(0)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    actor = torch.nn.Sequential(linear(2, 64), relu(), linear(64, 64), relu(), linear(64, 1))
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-3)
    for _ in range(1500):
        obs = torch.stack([torch.rand(256) * 1.6 - 0.2, torch.rand(256) * 4 - 2], 1)
        # it holds 0.97 m/s, where 1 is allowed: a reading that is off by 0.05 makes it too fast
        loss = (actor(obs) - (0.97 + 8 * (0.97 - obs[:, :1])).clamp(-2, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(actor.eval(), (torch.zeros(1, 2),), folder / "actor.onnx", dynamic_shapes=(batch,))
    sys.path.insert(0, str(folder))
    env, random = importlib.import_module("robot").Robot(), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for episode in range(100):
        obs, _ = env.reset(seed=episode)
        noise = 0.0
        for _ in range(200):
            noise = 0.9 * noise + 0.3 * random.normal()
            with torch.no_grad():
                action = np.clip(actor(torch.from_numpy(obs)[None])[0].numpy() + noise, -2, 2)
            row = {"ep": episode, "o_0": obs[0], "o_1": obs[1], "a_0": action[0]}
            obs, reward, _, _, info = env.step(action)
            rows.append(row | {"r": reward, "speeding": info["cost"]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "logs.parquet")


def typed(lines: str, folder: Path) -> str:
    """Run a journey's commands, each in a process of its own; return what the last one said.

    One that fails ends it all.
    """
    sizes = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
    for line in lines.strip().splitlines():
        program, *words = shlex.split(line)
        small = sizes if "-p" in words else []
        began = time.monotonic()
        command = [sys.executable, "-m", program, *words, *small]
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
        print("".join(f"          {said}\n" for said in done.stdout.splitlines()), end="", flush=True)
        if done.returncode:
            sys.exit(f"exit code {done.returncode}: {done.stderr}")
    return done.stdout


def costs(path: Path) -> dict[str, float]:
    """Return the mean cost of each attack in an evaluation."""
    return {entry["attack"]: entry["cost"]["mean"] for entry in json.loads(path.read_text())["results"]}


def main(folder: Path) -> None:
    """Bring, type and check."""
    bring(folder)
    status = typed(SIMULATOR, folder)
    assert set(costs(folder / "checkpoints/Robot/evaluation.json")) == {"natural", "mc", "random"}
    assert {line.split()[1] for line in status.splitlines()} == {"done"}, status
    assert "data:image/gif" in (folder / "simulator.html").read_text()
    typed(POLICY, folder)
    before, after = costs(folder / "before.json"), costs(folder / "after.json")
    assert before["natural"] <= 5 < before["mc"], before
    assert after["mc"] < before["mc"], (before, after)
    manifest = json.loads((folder / "checkpoints/mine/policy/manifest.json").read_text())
    assert "imported" in manifest["origin"]
    assert (folder / "robot.onnx").stat().st_size > 0
    typed(LOGS, folder)
    assert not (folder / "datasets/logged").exists(), "nothing was collected"
    imagined = json.loads((folder / "imagined.json").read_text())
    assert imagined["world_model"]["error"] < 0.1
    assert "Never simulated" in (folder / "logs.html").read_text()
    for run in ("Robot", "mine", "logged"):
        assert "## Limits" in (folder / "checkpoints" / run / "card.md").read_text()
    print(f"the three journeys have come to their ends in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
