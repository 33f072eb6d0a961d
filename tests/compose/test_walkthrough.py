"""The README's walk through the containers, word for word."""

import re

import pytest

from tests.compose.stack import ROOT, Stack

pytestmark = pytest.mark.timeout(1_500)

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walkthrough() -> str:
    """The shell blocks of the README's section on containers."""
    text = (ROOT / "README.md").read_text()
    _, _, section = text.partition("\n## In containers\n")
    section, _, _ = section.partition("\n## ")
    blocks = BLOCK.findall(section)
    assert len(blocks) >= 4
    return "\n".join(blocks)


def test_the_walkthrough_works_word_for_word(stack: Stack) -> None:
    output = stack.script(walkthrough()).stdout
    for value in ("hello", "without 2"):
        read = re.findall(rf"^greeting +{value} ", output, re.MULTILINE)
        assert read, f"{value!r} is not read in:\n{output}"
    assert len(re.findall(r"^greeting +without 2 ", output, re.MULTILINE)) == 2
    status = re.findall(r"^0 +no +- ", output, re.MULTILINE)
    assert len(status) == 1, "the killed replica shows once as not reachable"
    (errors,) = re.findall(r"^errors +(\d+)", output, re.MULTILINE)
    assert errors == "0"
    assert '"event": "stopped"' not in output.split("Attaching to")[0]
    assert stack.container(0) == "", "`docker-compose down` leaves no containers"
