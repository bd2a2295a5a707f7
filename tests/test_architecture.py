"""The rules of docs/architecture.md, checked on the imports and sizes of all modules."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "opustomo").rglob("*.py")) + sorted((ROOT / "analysis_scripts").rglob("*.py"))

# room → rooms and modules that it may import, besides itself and opustomo.errors
ALLOWED = {
    "geometry": set(),
    "io": {"geometry"},
    "physics": {"geometry"},
    "data": {"geometry", "io"},
    "model": {"physics", "geometry"},
    "checkpoint": {"model", "physics", "geometry", "io"},
    "quality.checks": {"model.config", "physics", "geometry", "data", "io"},
    "training": {
        "training.monitors.records",
        "quality.checks",
        "checkpoint",
        "model",
        "physics",
        "geometry",
        "data",
        "io",
    },
    "training.monitors": {"analysis", "io", "geometry"},
    "analysis.latents": {"io"},
    "analysis.clusters": {"analysis.latents", "analysis.results", "io"},
    "analysis.figures": {"analysis.clusters", "analysis.latents", "analysis.results", "io"},
    "analysis.volumes": {
        "analysis.figures",
        "analysis.clusters",
        "analysis.latents",
        "analysis.results",
        "checkpoint",
        "model",
        "physics",
        "data",
        "io",
    },
    "analysis.tomograms": {
        "analysis.volumes",
        "analysis.figures",
        "analysis.clusters",
        "analysis.results",
        "geometry",
        "io",
    },
    "analysis": {
        "analysis.latents",
        "analysis.clusters",
        "analysis.figures",
        "analysis.volumes",
        "checkpoint",
        "geometry",
        "io",
    },
    "quality.evidence": {
        "analysis",
        "training.schedules",
        "training.monitors.convergence_state",
        "training.monitors.metrics",
        "checkpoint",
        "model",
        "physics",
        "geometry",
        "data",
        "io",
    },
    "subtract": {
        "quality.evidence",
        "training.schedules",
        "analysis",
        "checkpoint",
        "model",
        "physics",
        "geometry",
        "data",
        "io",
    },
    "report": {"quality.evidence", "analysis", "checkpoint", "model", "physics", "geometry", "data", "io"},
    "dynamics": {"analysis", "checkpoint", "model", "physics", "geometry", "io"},
    "convert": {"geometry", "io"},
    "convert.relion_export": {"convert", "physics", "geometry", "data", "io"},
    # The simulator is an independent forward model: it shares only the insertion of slices with the physics.
    "simulate": {"physics.slice_insertion", "physics.resampling", "geometry", "io"},
    "prepare": {"physics.slice_insertion", "geometry", "io"},
    "demo": {"simulate", "physics.resampling", "analysis", "geometry", "io"},
}
INNER = tuple(room for room in ALLOWED if "." in room)
HEAVY = {"torch", "pandas", "scipy", "sklearn", "umap", "matplotlib", "healpy", "numba", "starfile"}
MAX_LINES = 400
MAX_ARGUMENTS = 6
SAME_ROLE = {
    "warp",  # the formats of WARP: tilt series in `io`, particle tables in `convert`
}
NO_COMMANDS = (
    "closing_messages",
    "completion",
    "option_ranges",
    "options",
    "parser",
    "registry",
    "resumed_options",
    "runner",
)
"""Modules of opustomo/commands that commands share."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """Return the room of a module of opustomo: the package, one of `INNER`, or the top-level module."""
    pieces = module.split(".")
    if pieces[0] != "opustomo" or len(pieces) < 2:
        return None
    inner = ".".join(pieces[1:3])
    return inner if inner in INNER else pieces[1]


def may_import(part: str, module: str) -> bool:
    """Return whether a room may import a module of opustomo."""
    used = part_of(module)
    if used in (None, "errors", part):
        return True
    return bool({used, used.partition(".")[0], module.removeprefix("opustomo.")} & ALLOWED[part])


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
    assert parts == {*(part.partition(".")[0] for part in ALLOWED), "commands"}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 20
    tables = ROOT / "opustomo" / "prepare" / "particle_tables.py"
    assert "opustomo.geometry.eulers" in imports(tables)
    assert "opustomo.geometry.eulers" not in imports(tables, into_functions=False)


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for path in MODULES:
        name, used = name_of(path), imports(path)
        part = part_of(name)
        if part in ALLOWED:
            wrong += [f"{name} imports {module}" for module in sorted(used) if not may_import(part, module)]
        if part == "errors" and used:
            wrong.append(f"{name} imports {used}")
        if part not in (None, "main", "__main__", "commands"):
            wrong += [f"{name} imports {module}" for module in sorted(used) if module.startswith("analysis_scripts")]
    assert not wrong


def test_commands_know_nothing_of_each_other() -> None:
    wrong = []
    for path in (ROOT / "opustomo" / "commands").glob("*.py"):
        allowed = {name_of(path), *(f"opustomo.commands.{name}" for name in NO_COMMANDS)}
        others = {module for module in imports(path) if module.startswith("opustomo.commands.")}
        wrong += [f"{name_of(path)} imports {module}" for module in sorted(others - allowed)]
    assert not wrong


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


def test_modules_stay_small() -> None:
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: size for name, size in sizes.items() if size > MAX_LINES}


def arguments_of(path: Path) -> dict[str, int]:
    """Number of arguments of each function, without `self` and `cls`; constructors and Triton kernels do not count."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef) or node.name == "__init__":
            continue
        if any(ast.unparse(decorator) in ("triton.jit", "Kernel") for decorator in node.decorator_list):
            continue
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        found[f"{name_of(path)}.{node.name}"] = sum(one.arg not in ("self", "cls") for one in given)
    return found


def test_functions_take_few_arguments() -> None:
    counts = {name: count for path in MODULES for name, count in arguments_of(path).items()}
    assert not {name for name, count in counts.items() if count > MAX_ARGUMENTS}


def test_names_of_modules_are_reported_apart() -> None:
    """A name occurs once, except for equal roles: configs, kernels of a module, one format in two rooms."""
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "misc", "common"}
    rooms: dict[str, list[str]] = {}
    for path in MODULES:
        room, _, name = name_of(path).rpartition(".")
        if path.stem not in ("__init__", "__main__", "main", "config") and not room.endswith("kernels"):
            rooms.setdefault(name, []).append(room)
    assert not {name: found for name, found in rooms.items() if len(found) > 1 and name not in SAME_ROLE}


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


def test_commands_import_nothing_heavy_before_they_run() -> None:
    files = sorted((ROOT / "opustomo" / "commands").glob("*.py")) + sorted((ROOT / "analysis_scripts").glob("*.py"))
    heavy = {name_of(path): reached_at_import(path, set()) & HEAVY for path in files}
    assert not {name: found for name, found in heavy.items() if found}


@pytest.mark.parametrize("program", ["opustomo.main", "analysis_scripts.main"])
def test_help_is_light_and_complete(program: str) -> None:
    start = f"import sys; from {program} import main, COMMANDS; sys.exit(main(['-h']))"
    command = [sys.executable, "-X", "importtime", "-c", start]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.returncode == 0
    assert "missing from the installation" not in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & HEAVY
