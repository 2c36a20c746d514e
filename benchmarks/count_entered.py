"""How much of harden a toy `harden train` enters: files and functions, counted by `sys.setprofile`.

    python benchmarks/count_entered.py [--list]

The training and its simulation run in this process, in a folder of its own that is removed. A function counts
once, however often it is called; what is only imported counts for nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

HARDEN = Path(__file__).resolve().parents[1] / "harden"
# what the house is held to
FILES, FUNCTIONS = 45, 260
SETTINGS = {
    "networks.policy_hidden": "[16]",
    "networks.critic_hidden": "[16]",
    "collect.envs": "2",
    "collect.workers": "0",
    "critics.batch": "32",
    "estep.particles": "4",
    "train.env_steps": "800",
    "train.episodes": "2",
    "train.warm_up_episodes": "2",
    "train.warm_up_critic_steps": "3",
    "train.rounds": "2",
    "train.states": "24",
    "train.policy_steps": "3",
    "train.critic_steps": "2",
    "train.final_critic_steps": "3",
    "adversary.ramp_start": "0.0",
    "adversary.ramp": "0.5",
}


def entered(work: Callable[[], object]) -> set[tuple[str, str]]:
    """Return file and qualified name of each function of harden that some work enters.

    The bodies of modules and classes, which an import runs, and the parts of a function that have no name of
    their own (lambdas, comprehensions) do not count.
    """
    codes: set[CodeType] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    root = f"{HARDEN}{os.sep}"
    # a module's or class's body is no optimised code: it keeps its names in a dictionary
    functions = (code for code in codes if code.co_filename.startswith(root) and code.co_flags & 0x1)
    return {(code.co_filename, code.co_qualname) for code in functions if not code.co_name.startswith("<")}


def train() -> None:
    """Run `harden train` from its command line, small."""
    from harden.__main__ import main

    words = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    sys.argv = ["harden", "train", "--quiet", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the files, with how many functions of each")
    args = parser.parse_args()
    sys.path.insert(0, str(HARDEN.parent))
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            functions = entered(train)
        finally:
            os.chdir(before)
    files = Counter(file for file, _ in functions)
    if args.list:
        for file, count in sorted(files.items()):
            print(f"{count:4}  {Path(file).relative_to(HARDEN)}")
    print(f"{len(files)} files (the goal: at most {FILES})")
    print(f"{len(functions)} functions (the goal: at most {FUNCTIONS})")


if __name__ == "__main__":
    main()
