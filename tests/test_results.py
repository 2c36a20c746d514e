"""The numbers in the documents are those of the committed results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from harden.benchmark.page import page

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def render() -> ModuleType:
    """Return benchmarks/render.py as a module."""
    spec = importlib.util.spec_from_file_location("render", ROOT / "benchmarks/render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_page_and_the_readme_are_what_the_committed_runs_render_to(render: ModuleType) -> None:
    assert (ROOT / "docs/results.md").read_text() == render.page(), "run: python benchmarks/render.py"
    assert (ROOT / "README.md").read_text() == render.readme(), "run: python benchmarks/render.py"


def test_the_benchmark_page_is_what_the_committed_ledger_renders_to() -> None:
    made = page(ROOT / "benchmarks/results/ledger", ROOT / "docs/benchmark-notes.md")
    assert (ROOT / "docs/benchmark.md").read_text() == made, "run: harden benchmark --render"


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


def test_the_attacks_page_says_how_fast_they_were() -> None:
    page = (ROOT / "docs/attacks.md").read_text()
    found = json.loads((ROOT / "benchmarks/results/attack_speed.json").read_text())
    whole, attack = found["lockstep"]["seconds"]["all"], found["lockstep"]["seconds"]["attack"]
    assert f"{found['lockstep']['states']:,} attacked states in {whole:.1f} s, {attack:.1f} s of it" in page
    assert (
        f"{1000 * found['one_state']['seconds']:.0f} ms a state, {found['times_as_fast']['wall']:.0f} times"
        in page
    )


def test_a_goal_is_reached_when_three_refreshes_average_it_within_the_limit(render: ModuleType) -> None:
    curve = {
        "reward": [0.0, 400.0, 450.0, 500.0, 500.0, 500.0],
        "cost": [0.0, 30.0, 0.0, 0.0, 0.0, 0.0],
        "env_steps": [1, 2, 3, 4, 5, 6],
        "seconds": [10, 20, 30, 40, 50, 60],
    }
    run = {"trained": {"curve": curve}}
    assert render.reached(run, 450, 5.0) == (5, 50), "the first window to average it costs ten an episode"
    assert render.reached(run, 200, 10.0) == (3, 30)
    assert render.reached(run, 501, 5.0) is None
