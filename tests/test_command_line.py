"""What all commands share: their options, one line for what click refuses, what Ctrl-C leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from harden.cli import main
from harden.config.pipeline import PipelineConfig
from support.commands import SETTINGS, harden


def commands(group: click.Group, *before: str) -> list[tuple[str, ...]]:
    """Return the words of every command."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        words = (*before, name)
        found += commands(command, *words) if isinstance(command, click.Group) else [words]
    return found


def refused(*words: str, code: int = 2) -> str:
    """Run a command that must fail; returns its output, which is one line."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("words", commands(main), ids=" ".join)
def test_every_command_takes_the_shared_options(words: tuple[str, ...]) -> None:
    said = harden(*words, "--help").output
    for option in ("--quiet", "--dry-run", "--threads", "--version"):
        assert said.count(f"  {option}") == 1
    assert harden(*words, "--version").output == harden("--version").output


ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_a_page_names_no_option_that_its_command_does_not_take(page: Path) -> None:
    for line in re.findall(r"\bharden [^`\n|(#]*", page.read_text()):
        words, command = line.split()[1:], main
        while isinstance(command, click.Group) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if not isinstance(command, click.Group):
            taken = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            named = {word.rstrip(".,:;") for word in words if re.match("--?[a-z]", word)}
            assert named <= taken | {"--help"}, line


def test_the_page_of_commands_has_them_all() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    for words in commands(main):
        assert re.search(rf"`harden {' '.join(words)}\b", page), words


def test_help_is_whole_and_says_something_of_each_option() -> None:
    assert "..." not in harden("--help").output.partition("Commands:")[2]
    for words in commands(main):
        command: click.Command = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        silent = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
        assert not silent, words


def test_every_key_is_listed_with_its_default_and_its_section_with_what_it_is_for() -> None:
    rows = dict(line.split(None, 1) for line in harden("list", "keys").output.splitlines())
    for name, field in PipelineConfig().model_dump().items():
        for key, default in field.items() if isinstance(field, dict) else [(None, field)]:
            given = rows[f"{name}.{key}" if key else name]
            if name != "task":
                written = "unset" if default is None else json.dumps(default)
                assert given.startswith(f"{written};"), (name, key)
    assert "Algorithm 2" in rows["train"]
    assert "at least 2 at most 4096" in rows["estep.particles"]
    assert rows["task.cost_limit"].startswith("to be given")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["evaluate", "--attack", "mcc"], "mc"),
        (["evaluate", "--attack", "blackbox"], "black-box"),
        (["train", "--variant", "saferlong"], "safer-long"),
        (["collect", "--set", "task=ball-circel"], "ball-circle"),
        (["collect", "-p", "quikstart"], "quickstart"),
        (["collect", "--set", "env_steps=3"], "train.env_steps"),
        (["collect", "--set", "train.env_step=3"], "env_steps"),
        (["evalute"], "evaluate"),
    ],
)
def test_a_slip_of_the_pen_is_told_what_was_meant(folder: Path, words: list[str], meant: str) -> None:
    said = refused(*words)
    assert re.search(rf"[Dd]id you mean (\S+ or )*'?{meant}\b", said), said


def test_threads_are_those_asked_for(folder: Path) -> None:
    try:
        harden("status", "--threads", "2", "--quiet")
        assert torch.get_num_threads() == 2
    finally:
        harden("status")
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["list", "tasks"], 0),
        (["list", "attacks"], 0),
        (["list", "keys"], 0),
        (["init"], 0),
        (["status"], 0),
        (["evaluate", "--attack", "mcc"], 2),
        (["train", "--variant", "saferr"], 2),
        (["collect", "-p", "nowhere"], 2),
    ],
)
def test_what_computes_nothing_does_not_wait_for_torch(folder: Path, words: list[str], code: int) -> None:
    program = (
        "import sys, click.testing, harden.cli as cli\n"
        f"result = click.testing.CliRunner().invoke(cli.main, {words})\n"
        f"sys.exit('torch' in sys.modules or result.exit_code != {code})"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


SAMPLE = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"


@pytest.fixture
def logs(folder: Path) -> Path:
    """A folder with a small data set and a policy."""
    harden("collect", *SETTINGS, "--episodes", "3", "--behaviour", "random", "--out", "logs", "--quiet")
    (folder / "policy").symlink_to(SAMPLE)
    return folder


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(logs: Path) -> None:
    harden("data", "export", "logs", "--to", "dsrl", "--out", "logs.h5")
    Path("ledger").mkdir()
    before = sorted(logs.rglob("*"))
    for words, paths in {
        ("init",): ["pipelines/ball-circle.toml"],
        ("data", "repair", "logs"): ["logs/manifest.json"],
        ("data", "import", "logs.h5", "--out", "mine"): ["mine"],
        ("data", "export", "logs", "--to", "dsrl", "--out", "b.h5"): ["b.h5"],
        ("data", "merge", "logs", "--out", "both"): ["both"],
        ("data", "filter", "logs", "--max-cost", "5", "--out", "safe"): ["safe"],
        ("data", "split", "logs", "a=0.4", "b=0.6", "--out", "parts"): ["parts/a", "parts/b"],
        ("policy", "export", "policy", "--to", "safetensors", "--out", "a.safetensors"): ["a.safetensors"],
        ("report", "policy", "--out", "page.html"): ["page.html"],
        ("benchmark", "--render", "--ledger", "ledger", "--out", "page.md"): ["page.md"],
    }.items():
        said = harden(*words, "--dry-run").output.splitlines()
        for path in paths:
            assert f"would write {path}" in said, words
        assert sorted(logs.rglob("*")) == before, words


@pytest.mark.parametrize(
    "words",
    [
        ("data", "import", "nowhere.h5", "--out", "mine"),
        ("data", "import", "logs/manifest.json", "--from", "dsrl", "--out", "mine"),
        ("data", "export", "nowhere", "--to", "dsrl", "--out", "b.h5"),
        ("data", "merge", "logs", "nowhere", "--out", "both"),
        ("data", "filter", "logs", "--episodes", "x", "--out", "safe"),
        ("data", "filter", "logs", "--out", "logs"),
        ("data", "repair", "nowhere"),
        ("policy", "export", "nowhere", "--to", "safetensors", "--out", "a.safetensors"),
        ("report", "nowhere"),
        ("report", "policy", "--sign-off", " "),
    ],
    ids=" ".join,
)
def test_a_dry_run_refuses_what_the_command_does(logs: Path, words: tuple[str, ...]) -> None:
    said = refused(*words, "--dry-run")
    assert refused(*words) == said


def test_a_dry_run_tells_an_unwritable_place(logs: Path) -> None:
    for words in (["split", "logs", "a=1"], ["merge", "logs"], ["filter", "logs"]):
        assert "can't write /proc/" in refused("data", *words, "--out", "/proc/parts", "--dry-run")


def test_init_never_overwrites(folder: Path) -> None:
    harden("init", "--quiet")
    Path("pipelines/ball-circle.toml").write_text("# mine\n")
    for words in (["init"], ["init", "--dry-run"]):
        assert "is there already" in refused(*words)
    assert Path("pipelines/ball-circle.toml").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["render", "--every", "0"],
            "invalid value for '--every': 0 is not in the range 1<=x<=10000",
        ),
        (["evaluate", "--norm", "l3"], "invalid value for '--norm': 'l3' is not one of 'linf', 'l2'"),
        (
            ["list"],
            "missing argument '{tasks|attacks|variants|keys}'. Choose from: tasks, attacks, variants, keys",
        ),
        (["list", "tasks", "more"], "got unexpected extra argument (more)"),
        (["data", "split", "logs"], "missing argument 'NAME=SHARE...'"),
    ],
)
def test_what_click_refuses_is_one_line(folder: Path, words: list[str], said: str) -> None:
    command = words[0] if words[0] != "data" else "data split"
    assert refused(*words) == f"error: {said}; see: main {command} --help"


@pytest.mark.parametrize("what", ["tasks", "attacks", "variants"])
def test_lists_name_one_thing_a_line(what: str) -> None:
    names = [line.split()[0] for line in harden("list", what).output.splitlines()]
    assert len(names) == len(set(names)) >= 4


def test_words_that_are_no_command_or_option(folder: Path) -> None:
    assert refused("colect").startswith("error: no such command 'colect'")
    assert refused("--colour").startswith("error: no such option")
    assert refused("data", "--colour").endswith("; see: main data --help")
    assert refused("collect", "--colour").endswith("; see: main collect --help")


def test_a_pipeline_that_may_not_be_read_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.toml").write_text("seed = 1\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "'mine.toml' is not readable; see: main collect --help" in refused("collect", "-p", "mine.toml")


def test_without_a_command_the_help_is_shown() -> None:
    assert "Usage: main data" in CliRunner().invoke(main, ["data"]).output
