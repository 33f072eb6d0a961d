"""The mutants stay usable, and their judge can tell a killed one from a survivor."""

import subprocess
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.mutants.run import ROOT, Mutant, Verdict, all_mutants, judge


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.path.stem)
def test_a_mutant_applies_and_names_tests_that_exist(mutant: Mutant) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", str(mutant.path)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all((ROOT / test.split("::")[0]).exists() for test in mutant.tests)


QUORUM = Path("pbft/quorum.py")
BROKEN_LINE = "        faulty = (replicas - 1) // 3\n"


def patch_of(tmp_path: Path, old: str, new: str) -> Path:
    """A patch that replaces one line of the thresholds."""
    before = (ROOT / QUORUM).read_text()
    assert before.count(old) == 1
    difference = unified_diff(
        before.splitlines(keepends=True),
        before.replace(old, new).splitlines(keepends=True),
        f"a/{QUORUM}",
        f"b/{QUORUM}",
    )
    patch = tmp_path / "mutant.patch"
    patch.write_text("Breaks one line.\n" + "".join(difference))
    return patch


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("assert Thresholds.of(4).faulty == 1", Verdict.KILLED),
        ("assert Thresholds.of(4).replicas == 4", Verdict.SURVIVED),
        ("assert (", Verdict.INVALID),
    ],
)
def test_the_judge(tmp_path: Path, test: str, verdict: Verdict) -> None:
    patch = patch_of(tmp_path, BROKEN_LINE, "        faulty = 0\n")
    test_file = tmp_path / "test_it.py"
    test_file.write_text(
        f"from pbft.quorum import Thresholds\n\n\ndef test_it() -> None:\n    {test}\n"
    )
    assert judge(Mutant(patch, (str(test_file),)))[0] is verdict


def test_a_patch_that_does_not_apply_is_invalid(tmp_path: Path) -> None:
    patch = patch_of(tmp_path, BROKEN_LINE, "        faulty = 0\n")
    patch.write_text(patch.read_text().replace("- 1) // 3", "- 1) // 4"))
    assert judge(Mutant(patch, ("tests/test_tidy.py",)))[0] is Verdict.INVALID


def test_a_patch_that_names_no_tests_is_refused(tmp_path: Path) -> None:
    patch = patch_of(tmp_path, BROKEN_LINE, "        faulty = 0\n")
    with pytest.raises(ValueError, match="Tests:"):
        Mutant.read(patch)
    patch.write_text("Tests: tests/unit tests/paper\n" + patch.read_text())
    assert Mutant.read(patch).tests == ("tests/unit", "tests/paper")
