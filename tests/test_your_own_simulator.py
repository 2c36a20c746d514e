"""The walk-through of docs/your-own-simulator.md, run as it is written, in small."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from PIL import Image

from harden.config.file import load_config
from support.commands import SMALL, harden

PAGE = (Path(__file__).parents[1] / "docs/your-own-simulator.md").read_text()
# sizes alone: everything else is the page's
SIZES = SMALL | {"train.env_steps": "1000", "evaluate.episodes": "2", "evaluate.attack_steps": "2"}
SIZES |= {"evaluate.restarts": "1", "estep.limit_start": '"limit"'}


def test_the_page_from_a_class_to_a_film(folder: Path) -> None:
    (folder / "robot.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0])
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    small = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
    for line in commands.splitlines():
        _, *words = shlex.split(line)
        harden(*words, *([] if words[0] == "init" else [*small, "--quiet"]))
    Path("line.toml").write_text(re.findall(r"```toml\n(.*?)```", PAGE, re.S)[0])
    by_init, by_hand = load_config(Path("pipelines/Robot.toml")), load_config(Path("line.toml"))
    assert by_init.task_row.env_id == by_hand.task_row.env_id == "Robot"
    manifest = json.loads(Path("checkpoints/Robot/policy/manifest.json").read_text())
    assert (manifest["task"], manifest["horizon"]) == ("Robot", 200)
    assert manifest["config"]["task"]["action_high"] == [2.0], "what the environment said"
    assert "mc" in Path("report.html").read_text()
    with Image.open("attacked.gif") as film:
        assert film.size == (800, 300)
