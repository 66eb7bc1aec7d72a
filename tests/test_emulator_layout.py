"""The emulator's modules form a ladder, and one file lists its routes."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "azureml_emulator"


def imported_modules(file: Path) -> set[str]:
    """The modules of the emulator that a module imports, also inside functions and for type checkers alone."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "azureml_emulator":
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("azureml_emulator."):
            modules.add(node.module.partition(".")[2])
    return modules


def test_no_module_imports_itself_through_others() -> None:
    """Modules can be read from the bottom up: each imports only modules that do not lead back to it."""
    imports = {file.stem: imported_modules(file) for file in PACKAGE.glob("*.py")}
    while free := [name for name, needed in imports.items() if not needed & imports.keys()]:
        for name in free:
            del imports[name]

    assert imports == {}


def test_one_file_lists_every_route() -> None:
    """Whoever asks what the emulator answers reads routes.py: no other module makes a route."""
    makers = {
        file.name
        for file in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route"
    }

    assert makers == {"routes.py"}
