"""The pipeline file: what is shipped, what is refused, what is derived."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from harden.config.file import PRESETS, find_pipeline, load_config, paper_settings
from harden.config.pipeline import PipelineConfig, make_config, renamed
from harden.config.tasks import TASKS
from harden.config.variants import VARIANTS
from harden.errors import InputError, MissingInputError

SHIPPED = sorted(path.stem for path in PRESETS.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pipeline_is_valid_and_survives_its_own_record(name: str) -> None:
    config = load_config(PRESETS / f"{name}.toml")
    recorded = json.loads(json.dumps(config.model_dump(mode="json")))
    assert make_config(recorded) == config


def test_the_shipped_pipelines_are_those_of_the_repository() -> None:
    here = Path(__file__).parents[1] / "pipelines"
    assert sorted(path.stem for path in here.glob("*.toml")) == SHIPPED
    assert {"ball-circle", "quickstart"} <= set(SHIPPED)


@pytest.mark.parametrize(
    "given", ["ball-circle", "ball-circle.toml", "pipelines/ball-circle.toml", "pipelines/ball-circle"]
)
def test_a_shipped_pipeline_is_found_outside_a_clone(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(find_pipeline(Path(given))).task == "ball-circle"


def test_ones_own_file_goes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/ball-circle.toml").write_text("seed = 5\n")
    assert load_config(find_pipeline(Path("pipelines/ball-circle.toml"))).seed == 5
    with pytest.raises(MissingInputError, match="did you mean ball-circle"):
        find_pipeline(Path("elsewhere/ball-circle.toml"))


def test_assignments_go_before_the_file_and_are_read_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('variant = "cvpo"\n[mstep]\nsteps = 3\n')
    config = load_config(path, ["mstep.steps=7", "variant=safer", "networks.policy_hidden=[8, 9]"])
    assert (config.mstep.steps, config.variant, config.networks.policy_hidden) == (7, "safer", (8, 9))


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_settings_go_over_the_file_and_under_what_is_set(task: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'task = "{task}"\n[estep]\nparticles = 4\n[train]\nrounds = 7\n')
    config = load_config(path, ["preset=paper", "mstep.kl_mean=0.5"])
    paper = paper_settings(task, on_policy=False)
    steps = paper["train"]["policy_steps"]
    assert (config.estep.particles, config.train.policy_steps) == (paper["estep"]["particles"], steps)
    assert config.mstep.kl_mean == 0.5
    assert config.train.rounds == 7, "what the paper says nothing of stays the file's"
    assert config.networks.critic_hidden == (256, 256)
    assert make_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("variant", ["safer", "ppol"])
def test_under_the_papers_settings_nothing_of_a_files_own_inventions_is_left(variant: str) -> None:
    seen, inventions = [], {"min_std", "correlation", "mean_share"}
    for task in TASKS:
        config = load_config(PRESETS / f"{task}.toml", ["preset=paper", f"variant={variant}"])
        assert config.train.average == 0, task
        assert config.collect.model_dump(include=inventions) == dict.fromkeys(inventions, 0), task
        assert config.mstep.learning_rate_end is None or variant == "ppol", task
        seen.append(config.networks)
    assert seen == [seen[0]] * len(TASKS), "networks do not depend on the file"


def test_a_preset_of_no_task_is_refused() -> None:
    with pytest.raises(InputError, match="moon-walk"):
        load_config(PRESETS / "ball-circle.toml", ["preset=paper", "task=moon-walk"])
    with pytest.raises(InputError, match="preset = 'theirs'"):
        load_config(PRESETS / "ball-circle.toml", ["preset=theirs"])


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"adversary": {"epsilon": -0.1}}, "adversary.epsilon = -0.1"),
        ({"evaluate": {"epsilon": float("inf")}}, "evaluate.epsilon = inf"),
        ({"mstep": {"learning_rate": float("nan")}}, "mstep.learning_rate = nan"),
        ({"mstep": {"learning_rate": 0}}, "mstep.learning_rate = 0"),
        ({"train": {"rounds": 2.5}}, "train.rounds = 2.5"),
        ({"networks": {"policy_hidden": []}}, "networks.policy_hidden = []"),
        ({"mstep": 3}, "mstep = 3"),
        ({"evaluate": {"norm": "l3"}}, "evaluate.norm = 'l3'"),
        (
            {"mstep": {"learning_rate": "0.1"}},
            "mstep.learning_rate = '0.1'",
        ),
        ({"mstep": {"learning_rate": True}}, "mstep.learning_rate = True"),
        ({"mstep": {"steps": "10"}}, "mstep.steps = '10'"),
        ({"mstep": {"steps": True}}, "mstep.steps = True"),
        ({"mstep": {"steps": 10.0}}, "mstep.steps = 10.0"),
        ({"train": {"offline": "yes"}}, "train.offline = 'yes'"),
        ({"collect": {"envs": True}}, "collect.envs = True"),
        ({"networks": {"policy_hidden": ["8"]}}, "networks.policy_hidden.0 = '8'"),
        (
            {"networks": {"policy_hidden": 8}},
            "networks.policy_hidden = 8",
        ),
        (
            {"networks": {"policy_hidden": [10**9]}},
            "networks.policy_hidden.0 = 1000000000",
        ),
        ({"estep": {"particles": 10**9}}, "estep.particles = 1000000000"),
        ({"mstep": {"steps": 10**30}}, f"mstep.steps = {10**30}"),
        ({"networks": {"init_std": 9.0}}, "configuration: networks: it must hold that min_std < init_std"),
        ({"seed": "1\n2"}, "seed = '1\\n2'"),
    ],
)
def test_a_value_out_of_range_is_named(tree: dict, said: str) -> None:
    with pytest.raises(InputError) as caught:
        make_config(tree)
    assert said in str(caught.value)


def test_a_whole_number_is_a_number_and_a_list_what_is_kept_as_tuple() -> None:
    config = make_config({"mstep": {"learning_rate": 1}, "networks": {"policy_hidden": [3, 4]}})
    assert (config.mstep.learning_rate, config.networks.policy_hidden) == (1.0, (3, 4))


def test_every_configuration_in_the_ledger_loads() -> None:
    ledger = sorted((Path(__file__).parents[1] / "benchmarks/results/ledger").glob("*/*.json"))
    assert len(ledger) > 30
    for path in ledger:
        config = make_config(renamed(json.loads(path.read_text())["config"]), str(path))
        assert config.task == path.parent.name


OWN = {"name": "x", "horizon": 9, "cost_limit": 1.0, "epsilon": [0.1, 0.2], "obs_dim": 2, "act_dim": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cost_limit": None}, "a: task.cost_limit: Field required"),
        ({"horizon": None}, "a: task: without an environment (env) it has to say horizon"),
        ({"epsilon": "x"}, "a: task.epsilon = 'x'"),
        ({"epsilon": [0.1, "x"]}, "a: task.epsilon.1 = 'x'"),
        ({"epsilon": [0.1, -1]}, "a: task.epsilon.1 = -1"),
        ({"epsilon": [0.1]}, "a: task: epsilon has 1 numbers for 2 coordinates"),
        ({"obs_dim": 10**9}, "a: task.obs_dim = 1000000000"),
        (
            {"obsdim": 3},
            "a: task.obsdim = 3: Extra inputs are not permitted; did you mean obs_dim",
        ),
    ],
)
def test_what_is_wrong_with_an_own_task_is_named_plainly(change: dict, said: str) -> None:
    own = {key: value for key, value in (OWN | change).items() if value is not None}
    with pytest.raises(InputError) as caught:
        make_config({"task": own}, "a")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["seed=-1"], "--set seed=-1: seed = -1"),
        (
            ["mstep.steps=3", "networks.policy_hidden=[0]"],
            "--set networks.policy_hidden=[0]: networks.policy_",
        ),
        (["mstep.kl_mean=.5"], "--set mstep.kl_mean=.5: mstep.kl_mean = '.5'"),
        (
            ["mstep.betas=3"],
            "--set mstep.betas=3: mstep.betas = 3: Extra inputs are not permitted; did you mean beta_",
        ),
        (["networks.init_std=9.0"], "a.toml with --set networks.init_std=9.0: networks: it must hold that"),
        (["task.name=x"], "a.toml with --set task.name=x: task.cost_limit: Field required"),
        ([], "a.toml: estep.particles = 1"),
        (["seed=3"], "a.toml: estep.particles = 1"),
    ],
)
def test_an_error_is_blamed_on_who_made_it(
    assignments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = not any("=" in one and not one.startswith("seed=3") for one in assignments)
    Path("a.toml").write_text("[estep]\nparticles = 1\n" if bad else "")
    with pytest.raises(InputError) as caught:
        load_config(Path("a.toml"), assignments)
    assert str(caught.value).startswith(said)


def test_a_value_that_is_no_toml_is_told_how_values_are_read() -> None:
    with pytest.raises(InputError, match=r"values are read as TOML, such as 0\.5, true"):
        load_config(PRESETS / "ball-circle.toml", ["train.offline=True"])


@pytest.mark.parametrize("given", ["/", ".", "", "folder.toml", "a" * 300, ".."])
def test_what_is_no_pipelines_name_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.toml").mkdir()
    with pytest.raises(InputError, match=r"is a folder; name a TOML file|is missing; (shipped|did)"):
        find_pipeline(Path(given))


def test_brackets_without_end_are_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"seed = {'[' * 9999}")
    with pytest.raises(InputError, match=r"is not a pipeline file"):
        load_config(tmp_path / "a.toml")
    with pytest.raises(InputError, match=r"seed = '\[\[\["):
        load_config(PRESETS / "ball-circle.toml", [f"seed={'[' * 9999}"])


def test_epsilon_and_the_cost_limit_are_the_tasks_unless_set() -> None:
    plain = make_config({"task": "ball-circle"})
    assert (plain.train_epsilon, plain.eval_epsilon, plain.task_row.cost_limit) == (0.05, 0.05, 5.0)
    own = make_config(
        {"task": "ball-circle", "cost_limit": 2, "adversary": {"epsilon": 0.06}, "evaluate": {"epsilon": 0.1}}
    )
    assert (own.train_epsilon, own.eval_epsilon, own.task_row.cost_limit) == (0.06, 0.1, 2.0)
    assert TASKS["ball-circle"].cost_limit == 5.0


@pytest.mark.parametrize(("start", "limit"), [(4.0, 5.0), (4.0, 0.0)])
def test_a_limit_that_would_not_fall_is_refused(start: float, limit: float) -> None:
    with pytest.raises(InputError, match=rf"limit_start = {start:g}\b.*\b{limit:g}\b"):
        make_config({"cost_limit": limit, "estep": {"limit_start": start}})
    with pytest.raises(InputError, match=r"limit_start = 8\b.*\b9\b"):
        make_config({"estep": {"limit_start": 8, "limit_end": 9}})


@pytest.mark.parametrize(("env_steps", "refreshes"), [(1, 1), (2000, 1), (2001, 2), (4000, 2), (24000, 12)])
def test_refreshes_are_whole_and_enough(env_steps: int, refreshes: int) -> None:
    assert make_config({"train": {"env_steps": env_steps}}).refreshes == refreshes


def test_a_file_keeps_exceptions_for_some_variants(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'variant = "cvpo"\n[mstep]\nsteps = 3\nkl_mean = 0.5\n'
        '[[exceptions]]\nvariants = ["safer", "ppol"]\nmstep = { steps = 4 }\n'
        '[[exceptions]]\nvariants = ["ppol"]\ntrain = { rounds = 9 }\n'
    )
    assert load_config(path).mstep.steps == 3
    safer = load_config(path, ["variant=safer"])
    assert (safer.mstep.steps, safer.mstep.kl_mean, safer.train.rounds) == (4, 0.5, 200)
    assert load_config(path, ["variant=ppol"]).train.rounds == 9
    assert load_config(path, ["variant=safer", "mstep.steps=5"]).mstep.steps == 5


@pytest.mark.parametrize(
    ("exception", "said"),
    [
        ('variants = ["saver"]', "exceptions.variants = 'saver'; did you mean safer"),
        ("mstep = { steps = 4 }", "has to name its variants"),
        ('variants = [["safer"]]', "exceptions.variants = ['safer']; did you mean safer"),
        (
            'variants = ["safer"]\nmstep = { stepz = 4 }',
            "mstep.stepz = 4: Extra inputs are not permitted; did you mean steps",
        ),
    ],
)
def test_an_exception_is_checked_whichever_variant_runs(exception: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(f'variant = "cvpo"\n[[exceptions]]\n{exception}\n')
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("task", ["ball-circle", "car-circle", "drone-run-paper", "drone-run", "ant-run"])
def test_the_papers_method_has_its_own_bound_and_on_policy_rows_one_budget(task: str) -> None:
    configs = {name: load_config(PRESETS / f"{task}.toml", [f"variant={name}"]) for name in VARIANTS}
    for name, config in configs.items():
        if VARIANTS[name].imagined:
            # it has no Eq. 8, and takes fewer steps of simulation than the others
            assert config.train.env_steps <= configs["cvpo"].train.env_steps
            continue
        own = name.startswith("safer") and not VARIANTS[name].long_horizon
        assert (config.mstep.kl_robust_mean == paper_settings(task, False)["mstep"]["kl_robust_mean"]) == own
        steps = configs["safer" if own else "cvpo"].train.env_steps
        twice = 2 if VARIANTS[name].on_policy else 1
        assert config.train.env_steps == twice * steps, "rows compared differ in their method"
        if not VARIANTS[name].on_policy and not own:
            assert config.refreshes == configs["cvpo"].refreshes
    assert configs["safer"].train.env_steps <= configs["cvpo"].train.env_steps


def test_the_variants_are_the_designs_rows() -> None:
    terms = {
        name: (row.vanilla, row.robust_mle, row.robust_kl, row.long_horizon) for name, row in VARIANTS.items()
    }
    assert terms["safer"] == (True, True, True, False)
    assert terms["safer-long"] == (True, True, True, True)
    assert terms["safer-model"] == (True, False, False, True)
    assert VARIANTS["safer-model"].imagined
    assert VARIANTS["safer-model"].adversarial
    assert terms["cvpo"] == (True, False, False, False)
    assert terms["safer-no-vm"] == (False, True, True, False)
    assert terms["safer-no-kl"] == (True, True, False, False)
    assert terms["safer-no-mle"] == (True, False, True, False)
    assert not VARIANTS["cvpo"].adversarial


def _numbers(section: type[BaseModel], before: str = "") -> list[str]:
    """Return the keys of all real numbers of a section, and of those in it."""
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _numbers(kind, f"{before}{name}.")
        elif float in (kind, *get_args(kind)):
            found.append(before + name)
    return found


@pytest.mark.parametrize("key", _numbers(PipelineConfig))
@pytest.mark.parametrize("value", [1e300, 3e38, 1e20, 10**400])
def test_a_number_whose_square_is_none_is_refused_wherever_it_stands(key: str, value: float) -> None:
    """A float32 holds 3.4e38."""
    section, _, name = key.rpartition(".")
    with pytest.raises(InputError, match=re.escape(key)):
        make_config({section: {name: value}} if section else {name: value})


@pytest.mark.parametrize(
    "text", ["seed = " + "9" * 5000, "seed = " + "9" * 400, "[mstep]\nbeta_max = " + "9" * 400]
)
def test_numbers_of_many_digits_are_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(InputError) as found:
        load_config(path)
    path.write_text("")
    section = "mstep.beta_max=" if "mstep" in text else "seed="
    with pytest.raises(InputError) as also:
        load_config(path, [section + text.rpartition(" ")[2]])
    assert max(len(str(found.value)), len(str(also.value))) < 500
