"""The report page: every part of it is there, and a real browser shows it at phone and desktop width."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, browser
from test_bad_input import refused
from test_pipeline import harden

from harden.data import open_dataset
from harden.tasks import TASKS

# its evaluations are made once, not once a worker
pytestmark = pytest.mark.xdist_group("report")

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "checkpoints/released/ball-circle"
ATTACK = ["--attack", "random,mc,worst", "--episodes", "3", "--attack-steps", "2", "--restarts", "1"]
ATTACK += ["--set", "collect.workers=0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with evaluations of a vanilla and a hardened policy, and the pages made of them."""
    folder = tmp_path_factory.mktemp("report")
    before = os.getcwd()
    os.chdir(folder)
    try:
        vanilla, hardened = (["--policy", str(RELEASED / name)] for name in ("cvpo", "safer-long"))
        pages = ["--json", "vanilla.json", "--html", "vanilla.html"]
        harden("collect", "--episodes", "2", "--behaviour", "random", "--set", "collect.workers=0")
        data = ["--data", "datasets/ball-circle"]
        harden("evaluate", *vanilla, *ATTACK, "--curves", *data, *pages)
        harden("evaluate", *hardened, *ATTACK, "--json", "hardened.json")
        harden("report", "--compare", "vanilla.json", "hardened.json", "--out", "both.html")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory):
    """A tab of a headless browser."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Text(HTMLParser):
    """Collects a page's words and the pictures' descriptions."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words, self.pictures = "", list[str]()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["alt"])

    def handle_data(self, data: str) -> None:
        self.words += data


def test_every_part_of_the_report_is_there(made: Path) -> None:
    page, evaluation = Text(made / "vanilla.html"), json.loads((made / "vanilla.json").read_text())
    mc = next(one for one in evaluation["results"] if one["attack"] == "mc")
    assert f"Not safe: {mc['cost']['mean']:.1f} under mc at epsilon 0.05" in page.words
    for part in ("Every attack", "Where the robot went", "What is certain", "What the attacker may do"):
        assert part in page.words
    for begins in (
        "Reward against cost",
        "Cost against the attacker's reach",
        "Reward against the attacker's reach",
    ):
        assert any(alt.startswith(begins) for alt in page.pictures), begins
    for quantity in ("Cost", "Reward"):
        assert f"{quantity} against the attacker's effort: steps of the search." in page.pictures
    assert sum(alt.startswith("Start ") for alt in page.pictures) == 3
    assert evaluation["policy"]["policy_digest"] in page.words
    assert "not looked at: needs mc with black-box, critic-free or mc-independent" in page.words
    assert "The points of the curves" in page.words
    _, high = evaluation["results"][0]["violation_ci95"]
    assert f"0 % (0 to {100 * high:.0f})" in " ".join(page.words.split())
    radii = {one["epsilon"] for one in evaluation["results"] if one["attack"] == "mc"}
    assert min(radii) < 0.05 < max(radii) == pytest.approx(0.15)


def test_epsilon_is_a_share_of_the_spread_in_the_data_or_else_where_the_policy_goes(made: Path) -> None:
    page = Text(made / "vanilla.html")
    by_data, by_natural = (
        json.loads((made / f"{name}.json").read_text())["threat_model"] for name in ("vanilla", "hardened")
    )
    dataset = open_dataset(made / "datasets/ball-circle", TASKS["ball-circle"])
    std = dataset.recent(len(dataset)).obs.double().std(0, correction=0)
    assert by_data["data"]["observation_std"] == pytest.approx(std.tolist())
    at = next(one for one in by_data["epsilon_over_std"] if one["epsilon"] == 0.05)
    assert at["ratio"] == pytest.approx((0.05 / std).tolist())
    assert f"{dataset.info.digest[:12]}" in page.words
    assert f"{100 * 0.05 / float(std[0]):.0f} %" in page.words
    assert by_natural["data"] is None
    (at,) = by_natural["epsilon_over_std"]
    assert at["ratio"] == pytest.approx([0.05 / s for s in by_natural["observation_std"]])


def test_curves_of_nothing_are_refused() -> None:
    words = ["evaluate", "--policy", str(RELEASED / "cvpo"), "--attack", "mr", "--curves"]
    assert "--attack random,mc" in refused(*words)


def test_the_drawn_paths_are_the_episodes_that_were_evaluated(made: Path) -> None:
    """They are replayed from the recorded actions: the cost along them has to come out again."""
    evaluation = json.loads((made / "vanilla.json").read_text())
    scene, results = evaluation["trajectories"], evaluation["results"]
    assert (scene["axis"], scene["limit"], scene["radius"]) == ("x", 6.0, 7.0)
    for shown in scene["episodes"]:
        of_seed = [
            next(e["cost"] for e in one["per_episode"] if e["seed"] == shown["seed"])
            for one in (results[0], next(one for one in results if one["attack"] == shown["attack"]))
        ]
        assert [shown["clean"]["cost"], shown["attacked"]["cost"]] == of_seed
        beyond = sum(abs(x) > 6.0 for x, _ in shown["attacked"]["xy"][1:])
        assert beyond == shown["attacked"]["cost"], "cost is paid beyond the boundary that is drawn"


def test_no_attack_passes_what_is_guaranteed(made: Path) -> None:
    for name in ("vanilla", "hardened"):
        found = json.loads((made / f"{name}.json").read_text())["certificate"]
        assert found["exceeded"] == 0
        assert 0 < found["found"]["max"] <= found["guaranteed"]["max"] <= 2
        assert found["theorems"]["theorem_2"] > found["theorems"]["measured"]


def test_policies_stand_side_by_side_with_paired_differences(made: Path) -> None:
    both = Text(made / "both.html")
    first, second = (json.loads((made / f"{name}.json").read_text()) for name in ("vanilla", "hardened"))
    costs = [
        next(o for o in e["results"] if o["attack"] == "mc" and o["epsilon"] == 0.05)["cost"]["mean"]
        for e in (first, second)
    ]
    assert "Side by side" in both.words
    assert f"{costs[1] - costs[0]:.1f}" in both.words
    words = " ".join(both.words.split())
    for evaluation in (first, second):
        mc = next(o for o in evaluation["results"] if o["attack"] == "mc" and o["epsilon"] == 0.05)
        rate = f"{100 * mc['violation_rate']:.0f} % over the limit, reward {mc['reward']['mean']:.0f}"
        assert rate in words
    assert first["results"][3]["violation_rate"] != second["results"][3]["violation_rate"]
    assert "hardened: the verdict" in both.words


def test_policies_of_one_variant_also_stand_as_one(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluation = json.loads((made / "vanilla.json").read_text())
    other = json.loads(json.dumps(evaluation))
    other["policy"]["policy_digest"] = "of another training seed"
    for one in other["results"]:
        one["per_episode"] = [episode | {"cost": 0.0} for episode in one["per_episode"]]
    Path("other.json").write_text(json.dumps(other))
    harden("report", "--compare", str(made / "vanilla.json"), "other.json", "--out", "x.html")
    words = " ".join(Text(Path("x.html")).words.split())
    assert "all seeds of cvpo (2)" in words
    mc = next(one for one in evaluation["results"] if one["attack"] == "mc")
    # all of one policy's episodes are over the limit, none of the other's
    assert mc["violation_rate"] == 1.0
    assert f"50 % over the limit, reward {mc['reward']['mean']:.0f}" in words


def test_a_comparison_that_makes_no_sense_is_refused(made: Path, tmp_path: Path) -> None:
    assert "two or more" in refused("report", "--compare", str(made / "vanilla.json"))
    other = json.loads((made / "vanilla.json").read_text()) | {"task": "car-circle"}
    (tmp_path / "car.json").write_text(json.dumps(other))
    said = refused("report", "--compare", str(made / "vanilla.json"), str(tmp_path / "car.json"))
    assert "ball-circle and car-circle" in said


def test_a_run_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harden("report", str(RELEASED / "cvpo"))
    page = Text(tmp_path / "report.html")
    assert "cvpo: the verdict" in page.words
    assert "reward while training" in page.pictures
    assert "harden evaluate" in refused("report", str(ROOT / "docs"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["vanilla", "both"])
def test_a_browser_shows_it_whole(tab: Browser, made: Path, name: str, width: int, height: int) -> None:
    console = tab.open(made / f"{name}.html", width, height, mobile=width < 600)
    assert console == []
    shown = tab.evaluate("document.documentElement.clientWidth")
    assert width - 20 < shown <= width, "but for a scroll bar, the window is the page's"
    assert tab.evaluate("document.documentElement.scrollWidth") == shown
    wide = """[...document.querySelectorAll('body *')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
            && getComputedStyle(e).display != 'inline')
        .map(e => e.tagName + ': ' + e.textContent.slice(0, 40))"""
    assert tab.evaluate(wide) == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    assert tab.evaluate("document.images.length") >= 5
