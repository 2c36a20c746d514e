"""The numbers in the documents are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harden.benchmark.page import page, with_headline
from harden.errors import InputError

ROOT = Path(__file__).parents[1]


LEDGER = ROOT / "benchmarks/results/ledger"
_AGAIN = "run: harden benchmark --render --into README.md"


def test_the_results_page_is_what_the_committed_ledger_renders_to() -> None:
    assert (ROOT / "docs/results.md").read_text() == page(LEDGER), _AGAIN


def test_the_readmes_table_is_what_the_committed_ledger_renders_to() -> None:
    assert (ROOT / "README.md").read_text() == with_headline(ROOT / "README.md", LEDGER), _AGAIN


def test_a_file_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("nothing")
    with pytest.raises(InputError, match=r"a\.md"):
        with_headline(tmp_path / "a.md", LEDGER)


def test_the_attacks_page_says_what_the_committed_evaluations_found() -> None:
    page = (ROOT / "docs/attacks.md").read_text()

    def results(name: str) -> list[dict]:
        return json.loads((ROOT / f"benchmarks/results/attacks/{name}.json").read_text())["results"]

    for both in zip(results("cvpo-all"), results("safer-long-all"), strict=True):
        cells = [
            f"{one['reward']['mean']:.0f} | {one['cost']['mean']:.1f} | "
            f"{one['cost']['ci95'][0]:.1f} to {one['cost']['ci95'][1]:.1f}"
            for one in both
        ]
        assert f"| `{both[0]['attack']}` | {cells[0]} | {cells[1]} |" in page
    for policy, label in (("cvpo", "vanilla"), ("safer-long", "hardened")):
        for attack in ("random", "mc", "black-box"):
            curve = [one for one in results(f"{policy}-epsilon") if one["attack"] == attack]
            cells = [f"{one['reward']['mean']:.0f} / {one['cost']['mean']:.1f}" for one in curve]
            assert f"| {label} | `{attack}` | {' | '.join(cells)} |" in page
