"""The rules of style that a program can check (design: architecture.md). Each check is also fed a
file that breaks it, because a check that cannot fail checks nothing.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbft.errors import Reason

ROOT = Path(__file__).resolve().parent.parent

FLOORS = {
    "pbft": 0,
    "pbft.types": 0,
    "pbft.quorum": 0,
    "pbft.genesis": 0,
    "pbft.limits": 0,
    "pbft.errors": 0,
    "pbft.wire": 1,
    "pbft.messages": 1,
    "pbft.codec": 1,
    "pbft.crypto": 2,
    "pbft.core": 3,
    "pbft.storage": 4,
    "pbft.faults": 4,
    "pbft.service": 5,
    "pbft.transport": 6,
    "pbft.node": 7,
    "pbft.sim": 7,
    "pbft.cli": 8,
    "pbft_client": 3,
}
"""Imports go downward only. The client library stands beside the core, on crypto."""

GROUND_FLOORS = (0, 1)
"""Single modules live here, not packages: they may import each other."""
ABOVE_THE_CLIENT = ("pbft.sim", "pbft.cli")
"""The only packages of pbft that may import pbft_client."""
FORBIDDEN_IN_CORE = {
    "asyncio",
    "time",
    "random",
    "os",
    "socket",
    "datetime",
    "secrets",
    "threading",
    "logging",
    "io",
    "pathlib",
}
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
LINE_CHARACTERS_MAX = 100
MACHINE_PATHS = re.compile(r"/(?:" + "|".join(("work", "root", "home", "Users")) + r")/\w")
REASON = re.compile(r"\bReason\.([A-Z_]+)\b")
DEBTS = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")


def package_of(module: str) -> str | None:
    """The entry of FLOORS that a dotted module name belongs to; None for foreign modules."""
    parts = module.split(".")
    for length in (2, 1):
        if (name := ".".join(parts[:length])) in FLOORS and len(parts) >= length:
            return name
    return None


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every imported module with its line; `from pbft import types` counts as pbft.types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            if node.module == "pbft":
                yield from ((node.lineno, f"pbft.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def floor_violations(module: str, source: str) -> list[str]:
    """Imports of `module` that go upward or sideways."""
    own = package_of(module)
    assert own is not None, f"{module} belongs to no floor: add it to FLOORS"
    found = []
    for line, name in imports(ast.parse(source)):
        other = package_of(name)
        if name.startswith("."):
            found.append(f"{module}:{line}: relative import {name}")
        elif name.split(".")[0] == "client":
            found.append(f"{module}:{line}: imports client; the package is pbft_client")
        elif other is None or other == own:
            continue
        elif "pbft_client" in (own, other):
            if not _client_may(own, other):
                found.append(f"{module}:{line}: {own} must not import {name}")
        elif FLOORS[other] > FLOORS[own] or (
            FLOORS[other] == FLOORS[own] and FLOORS[own] not in GROUND_FLOORS
        ):
            found.append(f"{module}:{line}: {own} must not import {name}")
    return found


def _client_may(own: str, other: str) -> bool:
    """pbft_client imports crypto and what lies below; only sim and cli import it."""
    if own == "pbft_client":
        return FLOORS[other] <= FLOORS["pbft.crypto"]
    return own in ABOVE_THE_CLIENT


def core_violations(module: str, source: str) -> list[str]:
    """What the deterministic core must not contain."""
    tree = ast.parse(source)
    found = [
        f"{module}:{line}: the core must not import {name}"
        for line, name in imports(tree)
        if name.split(".")[0] in FORBIDDEN_IN_CORE
    ]
    asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    for node in ast.walk(tree):
        if isinstance(node, asynchronous):
            found.append(f"{module}:{node.lineno}: nothing in the core is async")
    return found


def length_violations(name: str, source: str) -> list[str]:
    """Files, functions and lines that are too long to take in."""
    lines = source.splitlines()
    found = []
    if len(lines) > FILE_LINES_MAX:
        found.append(f"{name}: {len(lines)} lines, at most {FILE_LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_CHARACTERS_MAX:
            found.append(f"{name}:{number}: {len(line)} characters, at most {LINE_CHARACTERS_MAX}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{name}:{node.lineno}: {node.name} has {length} lines")
    return found


def text_violations(name: str, text: str) -> list[str]:
    """Paths of one machine, and work put off, in any file of the project."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATHS.search(line):
            found.append(f"{name}:{number}: names a path of one machine")
        if DEBTS.search(line):
            found.append(f"{name}:{number}: work put off belongs in an issue")
    return found


def project_files() -> list[Path]:
    """Files that are part of the project: those git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


def python_files() -> list[Path]:
    """The Python files that people write (stubs are generated)."""
    generated = ROOT / "pbft" / "wire"
    return [path for path in project_files() if path.suffix == ".py" and path.parent != generated]


def module_name(path: Path) -> str | None:
    """The dotted name of a file of the two shipped packages; None for any other."""
    for base in (ROOT / "client", ROOT):
        if path.is_relative_to(base):
            parts = path.relative_to(base).with_suffix("").parts
            if parts[0] in ("pbft", "pbft_client"):
                return ".".join(part for part in parts if part != "__init__")
    return None


def test_the_project_has_files_to_check() -> None:
    names = {module_name(path) for path in python_files()}
    assert {"pbft.types", "pbft.core.effects", "pbft_client", "pbft.cli.main"} <= names


def test_imports_go_downward() -> None:
    found = []
    for path in python_files():
        if (module := module_name(path)) is not None:
            found += floor_violations(module, path.read_text())
    assert found == []


def test_the_core_is_deterministic_and_does_no_input_or_output() -> None:
    found = []
    for path in python_files():
        module = module_name(path)
        if module is not None and package_of(module) == "pbft.core":
            found += core_violations(module, path.read_text())
    assert found == []


def test_files_functions_and_lines_are_short() -> None:
    found = []
    for path in python_files():
        found += length_violations(str(path.relative_to(ROOT)), path.read_text())
    assert found == []


def reasons_in(paths: list[Path]) -> set[str]:
    """Names of the reasons for a rejection that these files mention."""
    return {name for path in paths for name in REASON.findall(path.read_text())}


def test_every_reason_for_a_rejection_is_given_and_tested() -> None:
    files = python_files()
    given = reasons_in([path for path in files if module_name(path) is not None])
    tested = reasons_in([path for path in files if path.is_relative_to(ROOT / "tests")])
    every = {reason.name for reason in Reason}
    assert given == every
    assert every - tested == set()


def test_nothing_names_a_machine_or_puts_work_off() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += text_violations(str(path.relative_to(ROOT)), text)
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pbft.quorum", "from pbft.messages import Signed"),
        ("pbft.codec", "import pbft.crypto.digest"),
        ("pbft.crypto.keys", "from pbft.core.effects import Send"),
        ("pbft.core.replica", "from pbft.storage import api"),
        ("pbft.core.replica", "def late():\n    from pbft import node"),
        ("pbft.storage.state", "from pbft.faults import api"),
        ("pbft.faults.silent", "import pbft.storage.api"),
        ("pbft.node.runtime", "from pbft.sim import scheduler"),
        ("pbft.node.runtime", "from pbft_client import Client"),
        ("pbft.crypto.keys", "import pbft_client.errors"),
        ("pbft_client.client", "from pbft.core.effects import Send"),
        ("pbft_client.client", "from pbft.cli.main import main"),
        ("pbft.cli.kv", "from client.pbft_client import Client"),
        ("pbft.cli.kv", "from .output import say"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(floor_violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pbft.quorum", "from pbft.types import View\nimport tomllib"),
        ("pbft.codec", "from pbft.messages import Signed\nfrom pbft.wire import message_pb2"),
        ("pbft.core.replica", "from pbft.core.effects import Send\nfrom pbft.crypto import digest"),
        ("pbft.sim.clients", "from pbft_client.session import Session"),
        ("pbft.cli.kv", "from pbft_client import Client\nfrom pbft.node.config import load"),
        ("pbft_client.client", "from pbft.crypto.keys import load\nimport grpc"),
    ],
)
def test_a_right_import_is_accepted(module: str, source: str) -> None:
    assert floor_violations(module, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import os.path",
        "from time import monotonic",
        "from datetime import datetime as instant",
        "def draw():\n    import random",
        "async def step():\n    pass",
    ],
)
def test_what_the_core_must_not_do_is_found(source: str) -> None:
    assert len(core_violations("pbft.core.log", source)) == 1


def test_length_is_measured() -> None:
    function = "def long():\n" + "    pass\n" * FUNCTION_LINES_MAX
    assert len(length_violations("a.py", function)) == 1
    assert length_violations("a.py", function.replace("    pass\n", "", 1)) == []
    assert len(length_violations("a.py", "x = 1\n" * (FILE_LINES_MAX + 1))) == 1
    assert length_violations("a.py", "x = 1\n" * FILE_LINES_MAX) == []
    assert len(length_violations("a.py", "#" * (LINE_CHARACTERS_MAX + 1))) == 1
    assert length_violations("a.py", "#" * LINE_CHARACTERS_MAX) == []


def test_machine_paths_and_debts_are_found() -> None:
    assert len(text_violations("a.md", "see /" + "home/somebody/file")) == 1
    assert len(text_violations("a.md", "# TO" + "DO: later")) == 1
    assert text_violations("a.md", "rework/roots; see https://example.org/a") == []
