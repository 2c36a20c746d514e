"""Changes the method's code in small ways, one at a time, and counts how many of them the tests notice.

    make mutate                                          (an hour on one core)
    .venv-mutate/bin/python benchmarks/mutation.py --json FILE [--work FOLDER] [--digits 147]

mutmut 3 makes the mutants, in a copy of the repository. A work folder that is kept is gone on with: mutants
that the tests let live are tried again with the tests of now. `mutmut show NAME` there shows what one
changes. The text of errors is not mutated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import string
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODULES = {
    "nets": ["critics", "gaussian", "policy"],
    "attacks": ["__init__", "adam", "ball", "evolution", "linear", "objectives", "pgd", "slopes"],
    "method": [
        "adversary",
        "bellman",
        "critic_step",
        "dual",
        "e_step",
        "imagination",
        "m_step",
        "ppo",
        "schedules",
    ],
    "models": ["chains", "simulator", "world"],
}
FILES = [f"harden/{folder}/{name}.py" for folder, names in MODULES.items() for name in names]
TESTS = [
    "tests/test_ops.py",
    "tests/test_dual.py",
    "tests/test_attacks.py",
    "tests/test_algorithms.py",
    *(f"tests/test_ppol.py::Test{name}" for name in ("Advantages", "Losses", "Update")),
    "tests/test_models.py",
    "tests/test_nets.py",
    "tests/test_fit.py",
    "tests/test_adversaries.py::test_a_linear_adversary_fills_the_ball_and_each_of_several_acts_on_its_row",
    "tests/test_imitation.py::test_a_censored_gaussian_has_all_its_probability",
    "tests/test_imitation.py::test_a_censored_gaussian_differentiates_also_far_out",
    "tests/test_offline.py::test_an_imagined_step_is_the_members_mean_or_one_of_them",
    "tests/test_offline.py::test_what_the_logs_do_not_show_is_the_worst_there_is",
    "tests/test_offline.py::test_imagined_episodes_depend_on_their_seed_alone",
]
COPIED = ("harden", "tests", "pipelines", "checkpoints/released/ball-circle", "pyproject.toml")
# mutmut leaves decorated functions alone: where the decorator is applied below, they are plain ones
DECORATED = re.compile(r"^@torch\.no_grad\(\)\ndef (\w+)", re.MULTILINE)
# what mutmut calls the exit codes of the tests under a mutant: they passed, or none runs the function
LIVES, UNTESTED = 0, 33


def copy_tree(work: Path) -> None:
    """Copy what the tests of the mathematics need, with mutmut's settings."""
    for name in COPIED:
        source, target = ROOT / name, work / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for name in FILES:
        path = work / name
        text = path.read_text()
        below = "".join(f"\n\n{name} = torch.no_grad()({name})\n" for name in DECORATED.findall(text))
        path.write_text(DECORATED.sub(r"def \1", text) + below)
    settings = {
        "source_paths": ["harden"],
        "only_mutate": FILES,
        "also_copy": [name for name in COPIED[2:] if (ROOT / name).is_dir()],
        "do_not_mutate_patterns": [r"raise \w+Error\("],
        "pytest_add_cli_args_test_selection": TESTS,
    }
    lines = ["[mutmut]"]
    for key, values in settings.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    (work / "setup.cfg").write_text("\n".join(lines) + "\n")


def outcomes(work: Path) -> dict[str, dict[str, int | None]]:
    """Return the tests' exit code under each mutant of each file, None where it has not been tried."""
    found = {}
    for name in FILES:
        path = work / "mutants" / f"{name}.meta"
        found[name] = json.loads(path.read_text())["exit_code_by_key"] if path.exists() else {}
    return found


def run(work: Path, digits: str, jobs: int) -> None:
    """Try the mutants whose number ends so and that have not been tried, and again those that lived."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs)]
    lived = [name for codes in outcomes(work).values() for name, code in codes.items() if code == LIVES]
    subprocess.run([*command, *(f"*{digit}" for digit in digits)], cwd=work, check=True)
    if lived:
        subprocess.run([*command, *lived], cwd=work, check=True)


def summary(work: Path) -> dict[str, Any]:
    """Return the figures by module, in the form of the result file, and the names of those that live."""
    rows, total, living = [], Counter[str](), []
    for name, codes in outcomes(work).items():
        tried = {mutant: code for mutant, code in codes.items() if code is not None}
        lives = [mutant for mutant, code in tried.items() if code in (LIVES, UNTESTED)]
        row = {"mutants": len(codes), "tried": len(tried), "killed": len(tried) - len(lives)}
        row["survived"] = len(lives)
        total.update(row)
        living += lives
        rows.append({"module": name} | row)
    return {"mutmut": version("mutmut"), "total": dict(total), "modules": rows, "survivors": living}


def main() -> None:
    """Run the mutants and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--work", type=Path, help="a folder to go on in, kept; unset one that goes")
    parser.add_argument("--digits", default=string.digits, help="a sample: mutants whose number ends so")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        copy_tree(work)
        run(work, options.digits, options.jobs)
        figures = summary(work)
    command = f"python benchmarks/mutation.py --digits {options.digits}"
    about = {"date": datetime.date.today().isoformat(), "command": command}
    options.json.write_text(json.dumps(about | figures, indent=2) + "\n")
    print(json.dumps(figures["total"]))


if __name__ == "__main__":
    main()
