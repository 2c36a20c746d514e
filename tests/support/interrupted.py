"""Writes a file or a folder over and over, and is told to stop at one step of the interpreter after another.

Run as a program, with what is to be written ("file" or "folder") and an empty folder to write it in; says in
which tries something else than the old or the new was left, and how many tries there were.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from harden import signals
from harden.storage import files, folders

_TRACED = ("files.py", "folders.py", "contextlib.py")


def _write_file(at: Path) -> None:
    files.write_text(at / "file", "new")


def _write_folder(at: Path) -> None:
    folder = at / "folder"
    with folders.whole_folder(folder, instead_of=[folder]) as aside:
        (aside / "file").write_text("new")


def _write(what: str, at: Path, steps: int) -> None:
    left = steps

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(_TRACED):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return trace

    signals.listen()
    sys.settrace(trace)
    try:
        {"file": _write_file, "folder": _write_folder}[what](at)
    finally:
        sys.settrace(None)
        signals.ignore()


def main(what: str, out: Path) -> None:
    """Stop at every step; see the module."""
    code, steps = -1, 0
    while code != 0:
        steps += 1
        at = out / str(steps)
        (at / "folder").mkdir(parents=True)
        for name in ("file", "folder/file"):
            (at / name).write_text("old")
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            _write(what, at, steps)
            sys.exit(0)
        code = os.waitpid(child, 0)[1]
        # a folder that was replaced may be left beside the new one, until the next that writes there
        folders.recover_replaced(at / "folder", [at / "folder"])
        left = {str(path.relative_to(at)): path.read_text() for path in at.rglob("*") if path.is_file()}
        if set(left) != {"file", "folder/file"} or not set(left.values()) <= {"old", "new"}:
            print(f"step {steps}: {left}")
    print(f"{steps} steps")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
