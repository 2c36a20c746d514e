"""The report page: every part of it is there, and a real browser shows it at phone and desktop width."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from PIL import Image

from harden.config.tasks import TASKS
from harden.data.dataset import open_dataset
from harden.errors import HardenError
from harden.evaluation import pictures
from harden.evaluation.card import write_card
from harden.evaluation.reading import Reported, load_evaluation, load_runs
from harden.evaluation.report import write_report
from support.browser import Browser, browser
from support.commands import harden, refused
from support.mutations import json_mutations

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "checkpoints/released/ball-circle"
ATTACKS = ROOT / "benchmarks/results/attacks"
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
        Image.new("RGB", (80, 60)).save("hardened.gif")
        harden("report", "hardened.json", "--out", "hardened-film.html")
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
    # of several efforts the one that costs most decides
    at = [one for one in evaluation["results"] if (one["attack"], one["epsilon"]) == ("mc", 0.05)]
    mc = max(at, key=lambda one: one["cost"]["mean"])
    assert f"Not safe: cost {mc['cost']['mean']:.1f} under mc at epsilon 0.05 (95 % interval" in page.words
    for part in (
        "Every attack",
        "What doing nothing earns",
        "Where the robot went",
        "What the attacker may do",
    ):
        assert part in page.words
    assert any(alt.startswith("Reward against cost") for alt in page.pictures)
    for setting in ("epsilon", "steps"):
        assert {f"Cost against {setting}", f"Reward against {setting}"} <= set(page.pictures)
    assert sum(alt.startswith("Start ") for alt in page.pictures) == 3
    assert evaluation["policy"]["policy_digest"] in page.words
    assert evaluation["checks"]["hidden-gradient"] == 0
    assert "none could be made" in page.words
    assert "The points of the curves" in page.words
    _, high = evaluation["results"][0]["violation_ci95"]
    assert f"0 % (0 to {100 * high:.0f})" in " ".join(page.words.split())
    radii = {one["epsilon"] for one in evaluation["results"] if one["attack"] == "mc"}
    assert min(radii) < 0.05 < max(radii) == pytest.approx(0.15)


class Structure(HTMLParser):
    """Collects what a reader who does not see the page goes by: a line for each thing that is missing."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.lacks, self.heads, self.anchors = list[str](), list[int](), set[str]()
        self.links, self.main, self.table = list[str](), 0, ""
        self.feed(page.read_text())
        self.lacks += [f"{link} leads nowhere" for link in self.links if link[1:] not in self.anchors]
        self.lacks += [
            f"h{a} before h{b}" for a, b in zip(self.heads, self.heads[1:], strict=False) if b > a + 1
        ]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id", ""))
        if self.table == "table" and tag != "caption":
            self.lacks.append(f"a table without a caption, at {self.getpos()}")
        self.table = tag
        if tag in ("h1", "h2", "h3"):
            self.heads.append(int(tag[1]))
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.lacks.append(f"a head without a scope, at {self.getpos()}")
        if tag == "img" and not given.get("alt"):
            self.lacks.append(f"a picture without words, at {self.getpos()}")
        if tag == "a" and given["href"].startswith("#"):
            self.links.append(given["href"])
        self.main += tag == "main"


def test_who_does_not_see_the_page_finds_the_way(made: Path) -> None:
    for name in ("vanilla", "both"):
        page = Structure(made / f"{name}.html")
        assert page.lacks == []
        assert (page.main, page.heads.count(1)) == (1, 1)
        assert len(page.links) == len(page.heads) - 1, "the contents name every part"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours such as #ffffff, 1 to 21 (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_text_stands_out_from_what_is_behind_it_in_light_and_dark(made: Path) -> None:
    page = (made / "vanilla.html").read_text()
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root {[^}]*}", page)]
    assert len(schemes) == 2
    assert "prefers-color-scheme: dark" in page
    for colours in schemes:
        for behind in ("page", "over", "within", "unsure"):
            assert contrast(colours["ink"], colours[behind]) >= 4.5
            assert contrast(colours["note"], colours[behind]) >= 4.5
        assert contrast(colours["link"], colours["page"]) >= 4.5
        for edge in ("red", "green", "yellow"):
            assert contrast(colours[edge], colours["page"]) >= 3


def test_each_episode_stands_beside_its_natural_one_and_the_file_is_inside(made: Path) -> None:
    page, evaluation = (
        (made / "hardened-film.html").read_text(),
        json.loads((made / "hardened.json").read_text()),
    )
    (inside,) = re.findall(r'href="data:application/json;base64,([^"]*)"', page)
    assert json.loads(base64.b64decode(inside)) == evaluation
    (film,) = re.findall(r'src="data:image/gif;base64,([^"]*)"', page)
    assert base64.b64decode(film) == (made / "hardened.gif").read_bytes()
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    for index, natural in enumerate(evaluation["results"][0]["per_episode"]):
        (row,) = (row for row in rows if f">{natural['seed']}<" in row)
        cells = re.findall(r'data-label="([^"]*)".*?<span>(\d+)\s*<span class="note">\((\d+)\)', row, re.S)
        expected = [(e["attack"], e["per_episode"][index]) for e in evaluation["results"]]
        assert cells == [(name, f"{e['cost']:.0f}", f"{e['reward']:.0f}") for name, e in expected]


def test_epsilon_is_a_share_of_the_spread_in_the_data_or_else_where_the_policy_goes(made: Path) -> None:
    page = Text(made / "vanilla.html")
    by_data, by_natural = (
        json.loads((made / f"{name}.json").read_text())["threat_model"] for name in ("vanilla", "hardened")
    )
    dataset = open_dataset(made / "datasets/ball-circle", TASKS["ball-circle"])
    std = dataset.recent(len(dataset)).obs.double().std(0, correction=0)
    assert by_data["data"]["observation_std"] == pytest.approx(std.tolist())
    at = next(one for one in by_data["epsilon_over_std"] if one["epsilon"] == 0.05)
    # the ball never turns about one axis
    assert at["ratio"] == pytest.approx([0.05 / s if s > 1e-6 else None for s in std.tolist()])
    assert f"{dataset.info.digest[:12]}" in page.words
    assert f"{100 * 0.05 / float(std[0]):.0f} %" in page.words
    assert by_natural["data"] is None
    (at,) = by_natural["epsilon_over_std"]
    spread = by_natural["observation_std"]
    assert at["ratio"] == pytest.approx([0.05 / s if s > 1e-6 else None for s in spread])


def test_curves_of_nothing_are_refused() -> None:
    words = ["evaluate", "--policy", str(RELEASED / "cvpo"), "--attack", "mr", "--curves"]
    assert "--attack random,mc" in refused(*words)


def test_the_drawn_paths_are_the_episodes_that_were_evaluated(made: Path) -> None:
    """They are replayed from the recorded actions: the cost along them has to come out again."""
    evaluation = json.loads((made / "vanilla.json").read_text())
    scene, results = evaluation["trajectories"], evaluation["results"]
    assert (scene["axis"], scene["limit"], scene["radius"]) == ("x", 6.0, 7.0)
    for shown in scene["episodes"]:
        of_seed = {
            (one["attack"], e["cost"])
            for one in results
            if one["epsilon"] in (0.0, 0.05)
            for e in one["per_episode"]
            if e["seed"] == shown["seed"]
        }
        assert ("natural", shown["clean"]["cost"]) in of_seed
        assert (shown["attack"], shown["attacked"]["cost"]) in of_seed
        beyond = sum(abs(x) > 6.0 for x, _ in shown["attacked"]["xy"][1:])
        assert beyond == shown["attacked"]["cost"], "cost is paid beyond the boundary that is drawn"


def test_paths_of_a_run_task_are_drawn_between_its_walls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = ROOT / "checkpoints/released/drone-run-paper/safer-long"
    words = ["-p", str(ROOT / "pipelines/drone-run-paper.toml"), "--policy", str(policy), *ATTACK]
    harden("evaluate", *words, "--json", "run.json", "--html", "run.html")
    evaluation = json.loads(Path("run.json").read_text())
    scene, natural = evaluation["trajectories"], evaluation["results"][0]
    assert (scene["axis"], scene["radius"]) == ("y", None)
    # the drone starts between the walls and stays there
    ys = [y for shown in scene["episodes"] for _, y in shown["clean"]["xy"]]
    assert 0 < max(map(abs, ys)) < scene["limit"]
    assert natural["cost"]["mean"] == 0.0
    assert len(scene["episodes"]) == 3
    lengths = {one["seed"]: one["length"] for one in natural["per_episode"]}
    for shown in scene["episodes"]:
        assert len(shown["clean"]["xy"]) == lengths[shown["seed"]] + 1
        # it runs along x, and within the walls it does not drift as far
        (x, y), (to_x, to_y) = shown["clean"]["xy"][0], shown["clean"]["xy"][-1]
        assert to_x - x > 2 * abs(to_y - y)
    assert sum(alt.startswith("Start ") for alt in Text(Path("run.html")).pictures) == 3


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


def compared(*evaluations: Path) -> str:
    """Return the words of the page that compares evaluations."""
    harden("report", "--compare", *map(str, evaluations), "--out", "x.html")
    return " ".join(Text(Path("x.html")).words.split())


def test_policies_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{run}/policy/evaluation.json" for run in ("r1", "r2")] + ["a/x/p.json", "b/x/p.json", "p.json"]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text((RELEASED / "cvpo/evaluation.json").read_text())
    titles = [one.title for one in load_runs([Path("r1/policy"), Path("r2/policy"), *map(Path, names[2:])])]
    assert titles == ["r1/policy", "r2/policy", "a/x/p", "b/x/p", f"{tmp_path.name}/p"]
    assert [one.title for one in load_runs([Path("a/x/p.json"), Path("p.json")])] == [
        "x/p",
        f"{tmp_path.name}/p",
    ]
    assert [one.title for one in load_runs([Path("p.json"), Path("p.json")])] == ["p", "p (2)"]
    monkeypatch.chdir("r1/policy")
    assert [one.title for one in load_runs([Path(".")])] == ["policy"]
    monkeypatch.chdir(tmp_path)
    assert "cost, r2/policy less r1/policy" in compared(Path("r1/policy"), Path("r2/policy"))


@pytest.mark.filterwarnings("error")
def test_long_titles_leave_pictures_room() -> None:
    """A dollar is no formula, and one that is none would be an error."""
    titles = [f"{letter}{'long-winded-' * 6}$x^$_{letter}" for letter in "abcd"]
    for source in ("all", "epsilon"):
        evaluations = [json.loads(path.read_text()) for path in 2 * sorted(ATTACKS.glob(f"*-{source}.json"))]
        assert pictures.reward_cost(list(zip(titles, evaluations, strict=True)), 5.0)
    assert pictures.along(list(zip(titles, evaluations, strict=True)), "epsilon", "cost", 5.0)
    curve = {"env_steps": [0.0, 1.0], "reward": [1.0, 2.0], "cost": [9.0, 3.0]}
    assert pictures.learning([(title, curve) for title in titles], "cost", 5.0)


def test_a_label_keeps_a_titles_beginning_and_end() -> None:
    long = "a" * 40 + "b" * 40
    (short,) = pictures.shortened([long])
    assert (short[:3], short[-3:], "…" in short, len(short)) == ("aaa", "bbb", True, 28)
    assert pictures.shortened(["cvpo", "safer-long"]) == ["cvpo", "safer-long"]
    alike = pictures.shortened([f"{'a' * 40}{middle}{'b' * 40}" for middle in "xyz"])
    assert len(set(alike)) == 3


def test_different_cost_limits_are_not_compared_and_different_radii_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = json.loads((RELEASED / "safer-long/evaluation.json").read_text())
    one["trajectories"] = None
    for name, changes in {
        "one": {},
        "limit": {"cost_limit": 25.0},
        "radius": {"threat_model": one["threat_model"] | {"epsilon": 0.1}},
    }.items():
        Path(f"{name}.json").write_text(json.dumps(one | changes))
    assert "one 5.0, limit 25.0" in refused("report", "--compare", "one.json", "limit.json")
    assert "different radii: one 0.05, radius 0.1" in compared(Path("one.json"), Path("radius.json"))
    # each on its own, nothing is compared
    harden("report", "one.json", "limit.json")


def test_the_threat_is_told_where_nothing_was_attacked(tmp_path: Path) -> None:
    evaluation = json.loads((RELEASED / "safer-long/evaluation.json").read_text())
    evaluation["results"] = evaluation["results"][:1]
    evaluation["threat_model"]["epsilon_over_std"] = []
    write_report(tmp_path / "r.html", [Reported("natural", evaluation)])
    page = Text(tmp_path / "r.html")
    assert "What the attacker may do" in page.words


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
    assert "Reward while training" in page.pictures
    assert "harden evaluate" in refused("report", str(ROOT / "docs"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["vanilla", "both"])
def test_a_browser_shows_it_whole(tab: Browser, made: Path, name: str, width: int, height: int) -> None:
    console = tab.open(made / f"{name}.html", width, height, mobile=width < 600)
    assert console == []
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    shown = tab.evaluate("document.documentElement.clientWidth")
    assert width - 20 < shown <= width, "but for a scroll bar, the window is the page's"
    assert tab.evaluate("document.documentElement.scrollWidth") == shown
    # the heads of cards are for who hears the page
    wide = """[...document.querySelectorAll('body :not(thead, thead *)')]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
            && getComputedStyle(e).display != 'inline')
        .map(e => e.tagName + ': ' + e.textContent.slice(0, 40))"""
    assert tab.evaluate(wide) == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    assert tab.evaluate("document.images.length") >= 5


def spoiled(path: Path, keys: str, value: object) -> None:
    """Write a released evaluation with one value replaced, or taken out where it is None."""
    evaluation = json.loads((RELEASED / "safer-long/evaluation.json").read_text())
    *above, last = [int(key) if key.isdigit() else key for key in keys.split(".")]
    part = evaluation
    for key in above:
        part = part[key]
    if value is None and last != "task":
        del part[last]
    else:
        part[last] = value
    path.write_text(json.dumps(evaluation))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        ("policy", None, "policy: Field required"),
        ("policy", 3, "policy = 3"),
        ("policy.path", None, "policy.path: Field required"),
        ("results", [{}], "results.0.attack: Field required"),
        ("results", [], "results = []"),
        ("results", "abc", "results = 'abc'"),
        ("results.0.attack", "mc", "results begin with 'mc', and have to with 'natural'"),
        ("results.1.reward", 3, "results.1.reward = 3"),
        (
            "results.1.reward.mean",
            "x",
            "results.1.reward.mean = 'x'",
        ),
        (
            "results.1.cost.mean",
            float("nan"),
            "results.1.cost.mean = nan",
        ),
        ("results.1.cost.mean", 10**400, "a.json"),
        ("results.1.cost.ci95", [1], "results.1.cost.ci95 = [1]"),
        ("results.1.epsilon", "0.05", "results.1.epsilon = '0.05'"),
        ("results.1.steps", True, "results.1.steps = True"),
        ("cost_limit", None, "cost_limit: Field required"),
        ("cost_limit", "5", "cost_limit = '5'"),
        ("task", None, "task = None"),
        ("warnings", 3, "warnings = 3"),
        ("warnings", [3], "warnings.0 = 3"),
        ("checks", [1], "checks = [1]"),
        ("threat_model", 3, "threat_model = 3"),
        ("threat_model.observation_std", [1], "epsilon_unit has 8 values for 1 coordinates"),
        ("trajectories.episodes.0.clean.xy", [[1e308, 0.0]], "trajectories.episodes.0.clean.xy.0.0 = 1e+308"),
        ("trajectories.limit", 1e308, "trajectories.limit = 1e+308"),
        ("trajectories.episodes.0.clean.xy", [], "trajectories.episodes.0.clean.xy = []"),
        ("action", "wild", "action = 'wild'"),
        ("device", "\ud800", "a.json"),
        ("format_version", True, "has format version True, this harden reads 1"),
    ],
)
def test_an_evaluation_that_says_something_else_is_refused_by_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str, value: object, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spoiled(tmp_path / "a.json", keys, value)
    told = refused("report", "a.json")
    assert said in told
    assert "harden evaluate" in told
    assert not Path("report.html").exists()


def test_an_interval_on_one_side_of_its_mean_is_drawn(tmp_path: Path) -> None:
    for ends in ([-9.0, -9.0], [9e9, 9e9]):
        spoiled(tmp_path / "a.json", "results.0.cost.ci95", ends)
        harden("report", str(tmp_path / "a.json"), "--out", str(tmp_path / "r.html"))


def test_every_evaluation_of_the_repository_loads() -> None:
    found = [*ROOT.glob("checkpoints/released/**/evaluation.json"), *ATTACKS.glob("*.json")]
    found += (ROOT / "benchmarks/results/demo").glob("*.json")
    assert len(found) > 20
    for path in found:
        assert load_evaluation(path) == json.loads(path.read_text())


def test_no_change_to_a_file_stops_the_page_in_its_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # drawing takes a second a page; what is drawn is looked at all the same
    monkeypatch.setattr(pictures, "_draw", lambda paint, height=0.0: "")
    path, taken = tmp_path / "a.json", 0
    evaluation = json.loads((RELEASED / "safer-long/evaluation.json").read_text())
    # most values of a whole file are episodes and places, which are all alike
    for one in evaluation["results"]:
        one["per_episode"] = one["per_episode"][:2]
    for one in evaluation["trajectories"]["episodes"]:
        one["clean"]["xy"], one["attacked"]["xy"] = one["clean"]["xy"][:2], one["attacked"]["xy"][:2]
    whole = json.dumps(evaluation).encode()

    @settings(max_examples=300, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(json_mutations(whole))
    def try_one(content: bytes) -> None:
        nonlocal taken
        path.write_bytes(content)
        with suppress(HardenError):
            write_report(tmp_path / "r.html", load_runs([path]))
            taken += 1

    try_one()
    assert taken > 0


RELEASES = sorted((ROOT / "checkpoints/released").glob("*/*"))


@pytest.mark.parametrize("folder", RELEASES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_each_release_has_the_model_card_that_its_files_make(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("card.md"))
    assert write_card(copy).read_text() == (folder / "card.md").read_text()


def test_a_card_has_the_numbers_of_its_own_policy_alone(tmp_path: Path) -> None:
    for name in ("safer", "cvpo"):
        shutil.copytree(RELEASED / name, tmp_path / name)
    shutil.copyfile(tmp_path / "safer/evaluation.json", tmp_path / "cvpo/evaluation.json")
    safer, cvpo = (write_card(tmp_path / name).read_text() for name in ("safer", "cvpo"))
    evaluation = json.loads((RELEASED / "safer/evaluation.json").read_text())
    for entry in evaluation["results"]:
        (row,) = (line for line in safer.splitlines() if line.startswith(f"| {entry['attack']} "))
        low, high = entry["cost"]["ci95"]
        assert f"{entry['cost']['mean']:.2f} | {low:.2f} to {high:.2f}" in row
    assert "| natural |" not in cvpo
    manifest = json.loads((tmp_path / "cvpo/manifest.json").read_text())
    assert manifest["policy_digest"][:16] in cvpo
    assert "nowhere" in refused("policy", "card", str(tmp_path / "nowhere"))
