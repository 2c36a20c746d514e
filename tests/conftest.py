"""What all tests share: one thread, and a record of the slow ones."""

from __future__ import annotations

import datetime
import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let no test depend on those before it."""
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="write each test's outcome and seconds as JSON")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--results")
    if path is not None:
        config.pluginmanager.register(_Record(path), "record")


class _Record:
    def __init__(self, path: Path) -> None:
        self.path = path
        # a test that was not run this time keeps its last result
        self.tests: dict[str, dict[str, object]] = {}
        if path.exists():
            self.tests = json.loads(path.read_text())["tests"]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.tests[report.nodeid] = {
                "outcome": report.outcome,
                "seconds": round(report.duration, 1),
                "date": datetime.date.today().isoformat(),
            } | dict(report.user_properties)

    def pytest_sessionfinish(self) -> None:
        names = ("harden", "torch", "lightning", "numpy", "pybullet")
        record = {
            "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
            "tests": self.tests,
        }
        self.path.write_text(json.dumps(record, indent=2) + "\n")
