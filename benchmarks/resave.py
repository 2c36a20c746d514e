"""Write policy folders again in the present format: python benchmarks/resave.py FOLDER...

Where the identity that a folder says of its policy or critics is another one than the program's, as in the
first format, it is replaced in the evaluation beside it and in the stored results as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harden.nets.saved import load_policy, save_policy
from harden.storage.files import write_text

RESULTS = Path(__file__).parent / "results"
KEYS = ("policy_digest", "critics_digest")


def resaved(folder: Path) -> dict[str, str]:
    """Write a folder again; returns the new identities by the old ones."""
    said = json.loads((folder / "manifest.json").read_text())
    loaded = load_policy(folder)
    save_policy(folder, loaded.policy, loaded.critics, loaded.about)
    return {said[key]: loaded.about[key] for key in KEYS if said.get(key, "") != loaded.about.get(key, "")}


def replace(path: Path, identities: dict[str, str]) -> None:
    """Put the new identities where a file has the old ones."""
    text = changed = path.read_text()
    for old, new in identities.items():
        changed = changed.replace(old, new)
    if changed != text:
        write_text(path, changed)


def main(folders: list[Path]) -> None:
    """Write the folders again."""
    identities: dict[str, str] = {}
    for folder in folders:
        identities |= resaved(folder)
    for root in (RESULTS, *folders):
        for path in root.rglob("*.json"):
            replace(path, identities)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
