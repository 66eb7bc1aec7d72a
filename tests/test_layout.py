"""The house rules: imports go downward only, the documented tree is true, importing the flow is light."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("retune_cli", "flows", "tasks", "chatdata", "retune_cloud", "retune", "azureml_emulator", "trainer")
# Which requests are a web page's is one rule for the emulator, MLflow behind it and the model servers.
SHARED = "trainer.same_origin"
# Each room with those that it may import from.
LADDER = ("retune_cli", "flows", "tasks", "chatdata", "retune_cloud", "retune")
ALLOWED = {room: set(LADDER[number:]) for number, room in enumerate(LADDER)} | {
    "azureml_emulator": {"azureml_emulator", SHARED},
    "trainer": {"trainer", SHARED},
}
# Each holds an import and a call, for `python -m`.
ENTRY_POINTS = {
    "retune/__main__.py imports retune_cli",
    "flows/finetune.py imports retune_cli",
    "flows/sweep.py imports retune_cli",
}


# The extras of pyproject.toml that a room may need beside the dependencies of all.
EXTRAS_OF = {"chatdata": ("privacy", "azure"), "azureml_emulator": ("emulator",), "trainer": ("trainer",)}
# Everywhere else the errors that a call may raise are caught by name, around that call.
BROAD_EXCEPTS = {
    "retune_cli/running.py": "a command ends with a report or a message, whatever happened; the traceback is logged",
    "tasks/showing.py": "the thread that draws Prefect's page must not die, and no run fails because of a page",
    "chatdata/prepare.py": "the tokenizers package raises nothing narrower for a file that it cannot read",
    "azureml_emulator/app.py": "the emulator answers every request, with 500 for an error of its own",
    "azureml_emulator/world.py": "the thread of a job, a step or an operation must not die without an outcome",
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def distributions_of_packages() -> Mapping[str, list[str]]:
    return packages_distributions()


def imported_packages(path: Path) -> set[str]:
    """First names of everything that a module imports, also inside functions; SHARED under its full name."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module if node.module == SHARED else node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_downward_only(package: str) -> None:
    """Each room imports from those below it; the emulator and the trainer import nothing of ours but one rule."""
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported_packages(path) & {*PACKAGES, SHARED} - ALLOWED[package]
    }

    assert wrong - ENTRY_POINTS == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_what_its_extras_declare(package: str) -> None:
    """Whoever installs Retune without extras can run it on Azure; each extra brings all that its room needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"]]
    lines += [line for extra in EXTRAS_OF.get(package, ()) for line in project["optional-dependencies"][extra]]
    declared = {canonical(re.split(r"[^\w.-]", line)[0]) for line in lines}
    distributions = distributions_of_packages()
    imported = {name for path in (ROOT / package).rglob("*.py") for name in imported_packages(path)}
    missing = {
        name
        for name in imported & distributions.keys() - {*PACKAGES}
        if not declared & {canonical(distribution) for distribution in distributions[name]}
    }

    assert missing == set()


def canonical(distribution: str) -> str:
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_documented_tree_names_every_file(package: str) -> None:
    """Once, and no file that is not there."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = page.partition(f"\n{package}/\n")[2].splitlines()
    own = itertools.takewhile(lambda line: line.startswith("  "), lines)
    # Each line has names, two spaces or more, and what they hold.
    named = [name for line in own for name in re.split(" {2,}", line.strip())[0].split()]
    files = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}

    assert sorted(named) == sorted(files)


@pytest.mark.parametrize("package", PACKAGES)
def test_lines_end_at_a_line_feed_alone(package: str) -> None:
    """`str.splitlines` also parts a text at characters that are data: U+2028, U+0085, form feed."""
    calls = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr in ("splitlines", "readlines")
    }

    assert calls == set()


@pytest.mark.parametrize("module", ["torch", "transformers", "azure.ai.ml", "datasets", "mlflow", "pandas"])
def test_importing_the_flow_leaves_heavy_packages_alone(module: str) -> None:
    """A worker that loads the flow pays for Prefect only."""
    code = f"import sys, flows.finetune, flows.recipe; sys.exit({module!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_broad_excepts_are_few_and_have_reasons() -> None:
    """Five at most in the whole product, each listed above."""
    broad = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node.type)
    ]

    assert sorted(broad) == sorted(BROAD_EXCEPTS)
    assert len(BROAD_EXCEPTS) <= 5


def is_broad(caught: ast.expr | None) -> bool:
    """Whether an `except` takes every error: a bare one, or one that names Exception or BaseException."""
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(name is None or ast.unparse(name) in ("Exception", "BaseException") for name in names)


def test_help_names_the_exit_codes() -> None:
    """The help text is complete without a look into the documentation."""
    command = [sys.executable, "-m", "flows.finetune", "--help"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert "0 completed, 1 the run failed, 2 bad request (nothing was created), 3 declined, 130 interrupted" in shown
    assert "--set SECTION.KEY=VALUE" in shown
