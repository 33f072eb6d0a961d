"""`make mutants`: breaks the code one line at a time; the tests must notice each time.

A mutant is a patch in this directory. The lines before its diff say what it breaks, and one of them
which tests are to notice: `Tests: tests/paper tests/unit/core`. Each is applied to a copy of its
own. A mutant that survives means a rule that no test guards, and fails the command; so does a
patch that no longer applies, or a test that fails without any mutant.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
ROOT = DIRECTORY.parent.parent
TESTS_MARK = "Tests:"
RUN_SECONDS = 900
PYTEST_PASSED = 0
PYTEST_FAILED = 1


class Verdict(Enum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch and the tests that must notice it."""

    path: Path
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        """Raises ValueError if the patch does not say which tests are to notice it."""
        for line in path.read_text().splitlines():
            if line.startswith(TESTS_MARK) and (tests := line.removeprefix(TESTS_MARK).split()):
                return cls(path, tuple(tests))
        raise ValueError(f"{path.name} has no line `{TESTS_MARK} PATH...` before its diff")


def all_mutants() -> list[Mutant]:
    """Every patch, by name."""
    return [Mutant.read(path) for path in sorted(DIRECTORY.glob("*.patch"))]


def copy_project(target: Path) -> None:
    """Copies what git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def apply_patch(project: Path, patch: Path) -> str:
    """Applies a patch to a copy; returns what went wrong, empty if nothing did."""
    # Without a repository of its own around it, git would look for one further up.
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    done = subprocess.run(
        ["git", "apply", str(patch)], cwd=project, capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def run_tests(project: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Runs tests on a copy, stopping at the first failure: pytest's exit code and last line."""
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{project / 'client'}"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command,
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # A mutant that makes the protocol hang has been noticed.
        return PYTEST_FAILED, f"no end after {RUN_SECONDS} s"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    noticed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (noticed or lines or [done.stderr.strip()])[-1]


def judge(mutant: Mutant) -> tuple[Verdict, str]:
    """Applies one mutant to a copy and runs its tests."""
    with tempfile.TemporaryDirectory(prefix="pbft-mutant-") as directory:
        project = Path(directory)
        copy_project(project)
        if trouble := apply_patch(project, mutant.path):
            return Verdict.INVALID, trouble
        code, line = run_tests(project, mutant.tests)
    if code == PYTEST_PASSED:
        return Verdict.SURVIVED, line
    # Below zero: a signal. Whoever makes the interpreter crash has been noticed.
    is_noticed = code == PYTEST_FAILED or code < 0
    return (Verdict.KILLED if is_noticed else Verdict.INVALID), line


def baseline(mutants: Sequence[Mutant]) -> tuple[int, str]:
    """Runs the tests of all mutants on an unbroken copy: a test that always fails sees nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="pbft-mutant-") as directory:
        copy_project(Path(directory))
        return run_tests(Path(directory), tests)


def main(names: Sequence[str]) -> int:
    """Judges the named mutants (default: all); 0 if every one was killed."""
    mutants = [one for one in all_mutants() if not names or one.path.stem in names]
    if not mutants:
        print("no such mutant", file=sys.stderr)
        return 2
    begin = time.monotonic()
    code, line = baseline(mutants)
    print(f"without a mutant: {line}", flush=True)
    if code != PYTEST_PASSED:
        return 1
    lost = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for mutant, (verdict, line) in zip(mutants, pool.map(judge, mutants), strict=True):
            said = f"{verdict.value:8} {mutant.path.stem}: {line}"
            print(said, flush=True)
            if verdict is not Verdict.KILLED:
                lost.append(said)
    seconds = time.monotonic() - begin
    print(
        *lost,
        f"{len(mutants) - len(lost)} of {len(mutants)} mutants killed in {seconds:.0f} s",
        sep="\n",
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
