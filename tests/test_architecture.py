"""The arrows of docs/architecture.md, read from the imports."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "opustomo").rglob("*.py")) + sorted((ROOT / "analysis_scripts").rglob("*.py"))

# part → parts it may import, besides itself and opustomo.errors
ALLOWED = {
    "geometry": set(),
    "io": {"geometry"},
    "physics": {"geometry"},
    "data": {"geometry", "io"},
    "model": {"physics", "geometry"},
    "checkpoint": {"model", "physics", "geometry", "io"},
    "training": {"preflight", "checkpoint", "model", "physics", "geometry", "data", "io"},
    "reconstruct": {"physics", "geometry", "data", "io"},
    "report": {"evaluate", "analysis", "checkpoint", "model", "physics", "geometry", "data", "io"},
    "evaluate": {"reconstruct", "analysis", "training", "checkpoint", "model", "physics", "geometry", "data", "io"},
    "analysis": {"checkpoint", "model", "physics", "geometry", "data", "io"},
    "watch": {"training", "analysis", "io", "geometry"},
    "preflight": {"checkpoint", "model", "physics", "geometry", "data", "io"},
    "convert": {"geometry", "io"},
    "export": {"convert", "physics", "geometry", "data", "io"},
    "slices": set(),
    "simulate": {"slices", "geometry", "io"},
    "prepare": {"slices", "geometry", "io"},
    "dynamics": {"analysis", "checkpoint", "model", "physics", "geometry", "io"},
    "demo": {"simulate", "slices", "analysis", "geometry", "io"},
}
HEAVY = {"torch", "pandas", "scipy", "sklearn", "umap", "matplotlib", "healpy", "numba", "starfile"}
MAX_LINES = 400
NO_COMMANDS = (
    "runner",
    "continued",
    "data_options",
    "idle_options",
    "option_ranges",
    "streams",
)  # of opustomo/commands


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """Second component of a module of opustomo: the package, or the top-level module."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "opustomo" and len(pieces) > 1 else None


def nodes(tree: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """All statements; those under `if TYPE_CHECKING` never run and do not count."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not into_functions:
            continue
        yield child
        yield from nodes(child, into_functions)


def imports(path: Path, into_functions: bool = True) -> set[str]:
    """Absolute names of the modules that a file imports."""
    found = set()
    for node in nodes(ast.parse(path.read_text()), into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            # `from package import module`
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / str(node.module).replace(".", "/") / f"{alias.name}.py").exists()
            }
    return found


def test_every_part_has_its_place() -> None:
    parts = {path.name for path in (ROOT / "opustomo").iterdir() if (path / "__init__.py").exists()}
    assert parts == {*ALLOWED, "commands"}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 20
    assert "opustomo.geometry.euler" in imports(ROOT / "opustomo" / "io" / "poses.py")
    assert "opustomo.geometry.euler" not in imports(ROOT / "opustomo" / "io" / "poses.py", into_functions=False)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(name_of(path))
    if part in ALLOWED:
        used = {part_of(module) for module in imports(path)} - {None, "errors", part}
        assert used <= ALLOWED[part], f"{name_of(path)} imports {used - ALLOWED[part]}"
    if part == "errors":
        assert not imports(path)
    if part not in (None, "main", "__main__", "commands"):
        assert not any(module.startswith("analysis_scripts") for module in imports(path)), name_of(path)


def test_watchers_know_of_training_only_what_they_are_told() -> None:
    files = sorted((ROOT / "opustomo" / "watch").glob("*.py"))
    used = {module for path in files for module in imports(path) if part_of(module) == "training"}
    assert used == {"opustomo.training.records"}


@pytest.mark.parametrize("path", sorted((ROOT / "opustomo" / "commands").glob("*.py")), ids=name_of)
def test_commands_know_nothing_of_each_other(path: Path) -> None:
    others = {
        module
        for module in imports(path)
        if module.startswith("opustomo.commands.")
        and module not in {name_of(path), *(f"opustomo.commands.{name}" for name in NO_COMMANDS)}
    }
    assert not others


def test_no_cycles() -> None:
    graph = {name_of(path): imports(path, into_functions=False) for path in MODULES}
    graph = {module: {name for name in used if name in graph and name != module} for module, used in graph.items()}
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, f"cycle: {' → '.join([*trail[trail.index(module) :], module])}"
        if module not in done:
            for used in sorted(graph[module]):
                visit(used, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def reached_at_import(path: Path, seen: set[Path]) -> set[str]:
    """Third-party packages that importing a file brings in, through our own modules as well."""
    if path in seen:
        return set()
    seen.add(path)
    found = set()
    for module in imports(path, into_functions=False):
        own = ROOT / module.replace(".", "/")
        target = own.with_suffix(".py") if own.with_suffix(".py").exists() else own / "__init__.py"
        found |= reached_at_import(target, seen) if target.exists() else {module.split(".")[0]}
    return found


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "opustomo" / "commands").glob("*.py")) + sorted((ROOT / "analysis_scripts").glob("*.py")),
    ids=name_of,
)
def test_commands_import_nothing_heavy_before_they_run(path: Path) -> None:
    assert not reached_at_import(path, set()) & HEAVY


@pytest.mark.parametrize("program", ["opustomo.main", "analysis_scripts.main"])
def test_help_is_light_and_complete(program: str) -> None:
    start = f"import sys; from {program} import main, COMMANDS; sys.exit(main(['-h']))"
    command = [sys.executable, "-X", "importtime", "-c", start]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0
    assert "not part of this installation" not in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & HEAVY
