"""Every demo that plays on a real cluster holds; and one whose crime is left out fails."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from pbft.cli.demo import DEMOS, load
from pbft.cli.demos.live import Stage
from pbft.cli.demos.story import Story
from pbft.cli.supervisor import LocalCluster
from tests.process.helpers import pbft

LIVE = [name for name, (target, _) in DEMOS.items() if target.startswith("live:")]


def test_every_live_demo_holds_on_one_cluster(tmp_path: Path) -> None:
    done = pbft("demo", *LIVE, "-w", "json", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr + done.stdout
    checks = json.loads(done.stdout)
    assert {check["demo"] for check in checks} == set(LIVE)
    assert all(check["held"] for check in checks)
    pictures = [line for line in done.stderr.splitlines() if "●" in line or "◆" in line]
    assert len(pictures) > 10 * len(LIVE)
    assert [line for line in done.stderr.splitlines() if len(line) > 120] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lying-replica", "equivocating-primary", "partition"])
def test_a_crime_left_out_is_missed(
    cluster: LocalCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(self: Stage, *arguments: str, **options: str) -> None:
        """The fault is never set."""

    monkeypatch.setattr(Stage, "command", forget)
    demo = load(name)
    assert demo.on_cluster is not None
    story = Story(width=80)
    story.begin(demo.name, demo.title)
    asyncio.run(demo.on_cluster(story, cluster))
    assert not story.end()
    assert any(not check.held for check in story.checks)
