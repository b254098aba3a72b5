"""The layer rule of the design, the house style's lengths, and that ARCHITECTURE.md names what is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pabal"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = {path: path.relative_to(SOURCE).as_posix() for path in FILES}

MAY_IMPORT = {
    "model": {"model"},
    "wire": {"wire"},
    "store": {"store", "model"},
    "broker": {"broker", "store", "model"},
    "session": {"session", "wire", "broker", "model"},
    "management": {"management", "broker", "model"},
    "server": {"server", "management", "session", "store", "broker", "model"},
    "cli": {"cli", "server", "management", "session", "store", "broker", "model"},
}
"""Who may import whom. The two files above the layers, `__init__` and `__main__`, may import cli."""
STORE_INTERFACE = {"store.interface", "store.batch", "store.journal"}
"""All that the broker may know of the store."""
ABOVE = {"server", "cli"}
NOT_BELOW = {"asyncio", "socket", "select", "ssl", "time", "threading", "multiprocessing", "subprocess"}
NOT_BELOW |= {"secrets", "random", "concurrent", "uvloop", "signal", "logging"}
EXCEPT = {"store": {"subprocess"}}
"""A damaged data file may kill who reads it, so the store looks at a suspicious one in another process."""
CLOCKS = {"now", "utcnow", "today", "urandom", "monotonic"}
LINES_MAX = 500
FUNCTION_LINES_MAX = 70
EXCUSE = "This file is long because"


def layer(name: str) -> str:
    return name.split("/")[0].removesuffix(".py") if "/" in name else ""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(tree: ast.AST, package: str) -> list[str]:
    """Modules that are imported, by their full names; a relative import is resolved from `package`."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*parts, node.module] if node.module else parts)
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def ours(path: Path) -> set[str]:
    """What a file imports of ours, without the package's name: "broker.queue.Queue"."""
    package = ".".join(("pabal", *path.relative_to(SOURCE).parts[:-1]))
    names = imported(parse(path), package)
    return {name.removeprefix("pabal.") for name in names if name.startswith("pabal.")}


every_file = pytest.mark.parametrize("path", FILES, ids=NAMES.get)


@every_file
def test_imports_go_one_way(path: Path) -> None:
    here = layer(NAMES[path])
    if not here:
        assert ours(path) <= {"cli.main.main", "__version__", "wire.amqp091.frames"}, (
            "the package itself only starts the command line"
        )
        return
    for name in ours(path) - {"__version__", "compiled"}:
        assert name.split(".")[0] in MAY_IMPORT[here], f"{NAMES[path]} imports {name}"
        if here == "wire":
            protocol = NAMES[path].split("/")[1]
            assert name.startswith(f"wire.{protocol}."), f"{NAMES[path]} imports {name}, of another protocol"
        if here == "session" and name.startswith("wire."):
            protocol = NAMES[path].split("/")[1]
            assert name.startswith(f"wire.{protocol}."), f"{NAMES[path]} imports {name}, of another protocol"
        if here == "broker" and name.startswith("store."):
            module = ".".join(name.split(".")[:2])
            assert module in STORE_INTERFACE, f"{NAMES[path]} imports {name}: not the store's interface"


def test_layers_have_no_cycles() -> None:
    """Follows from the table; the table itself is checked."""
    left = {name: others - {name} for name, others in MAY_IMPORT.items()}
    while left:
        lowest = {name for name, others in left.items() if not others & left.keys()}
        assert lowest, f"a cycle among {sorted(left)}"
        left = {name: others for name, others in left.items() if name not in lowest}


@every_file
def test_nothing_below_the_server_waits_or_looks_at_a_clock(path: Path) -> None:
    if layer(NAMES[path]) in ABOVE or not layer(NAMES[path]):
        return
    tree = parse(path)
    for node in ast.walk(tree):
        waits = isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith)
        assert not waits, f"{NAMES[path]}:{getattr(node, 'lineno', 0)} waits"
        if isinstance(node, ast.Attribute):
            assert node.attr not in CLOCKS, f"{NAMES[path]}:{node.lineno} looks at a clock or at chance: {node.attr}"
    roots = {name.split(".")[0] for name in imported(tree, "pabal")} - EXCEPT.get(layer(NAMES[path]), set())
    assert not roots & NOT_BELOW, f"{NAMES[path]} imports {sorted(roots & NOT_BELOW)}"


@every_file
def test_files_and_functions_are_short_and_say_what_they_are(path: Path) -> None:
    tree = parse(path)
    text = ast.get_docstring(tree)
    assert text, f"{NAMES[path]} does not say what it is"
    excused = EXCUSE in text
    lines = len(path.read_text().splitlines())
    assert excused or lines <= LINES_MAX, f"{NAMES[path]} has {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert excused or length <= FUNCTION_LINES_MAX, f"{NAMES[path]}: {node.name} has {length} lines"


def test_the_architecture_page_names_what_is_there() -> None:
    page = ROOT / "ARCHITECTURE.md"
    if not page.exists():
        pytest.skip("there is no ARCHITECTURE.md yet")
    packages = "|".join(MAY_IMPORT)
    named = re.findall(rf"`((?:src|tests|docs|benchmarks|examples|fuzz|{packages})/[\w./-]*)`", page.read_text())
    assert named, "it names no file at all"
    ends = ("", ".py")
    missing = [n for n in named if not any((at / f"{n}{end}").exists() for at in (ROOT, SOURCE) for end in ends)]
    assert not missing
