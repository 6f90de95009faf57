"""The extras of pyproject.toml have what the code imports, and errors name an extra that does."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.training.sweeps import BUDGET, FACTS, SMALL, design
from training.sweep import cli
from training.sweep.design import Grid
from training.sweep.loop import Outcome
from training.sweep.plan import make_plan
from training.sweep.rows import append_row, make_row

OWN_ERRORS = {"datasets", "pyarrow", "ray", "lm-eval"}
"""Packages of other extras than `train`, whose absence has an error of its own (or `eval-family --tasks`)."""


def packages(extra: str | None) -> set[str]:
    """Names of the packages that an extra brings, beside the light install's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = set()
    for requirement in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        if nested := re.fullmatch(r"familial\[(.*)\]", requirement):
            found |= {package for each in nested[1].split(",") for package in packages(each)}
        else:
            found.add(re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower())
    return found


def imported(package: str) -> set[str]:
    """Names of the distributions that a package of ours imports anywhere."""
    modules = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).partition(".")[0])
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    distributions = packages_distributions()
    third_party = modules - set(sys.stdlib_module_names) - ours
    return {name.lower().replace("_", "-") for m in third_party for name in distributions.get(m, [m])}


def test_the_extra_train_has_whatever_training_imports() -> None:
    assert imported("training") - packages(None) - packages("train") <= OWN_ERRORS


def test_plotting_without_its_package_names_an_extra_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(design(Grid((BUDGET,), (SMALL,), (1,))), FACTS)
    append_row(tmp_path, make_row(plan, plan.runs[0], Outcome(((3.0,),), 1.0, diverged=False), "cpu"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        cli.main(["plot", str(tmp_path)])
    error = capsys.readouterr().err
    named = re.search(r"needs the package matplotlib\S*; install it with: pip install 'familial\[(\w+)\]'", error)
    assert named and "matplotlib" in packages(named[1])
