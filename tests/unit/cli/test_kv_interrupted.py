"""Ctrl-C while `pbft kv` waits for its answer."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from pbft.cli import exit_codes
from tests.unit.client.fake_cluster import FakeCluster, in_loop, until

UNKNOWN = "may have taken effect"
PROGRAM = (
    "import signal; from pbft.cli.main import main; "
    # A process that was started in the background of a script ignores it.
    "signal.signal(signal.SIGINT, signal.default_int_handler); main()"
)


@pytest.mark.parametrize(
    ("words", "is_unknown"),
    [(["put", "k", "v"], True), (["get", "k"], False), (["del", "k"], True)],
)
def test_what_is_interrupted_says_whether_it_may_take_effect(
    tmp_path: Path, words: list[str], is_unknown: bool
) -> None:
    @in_loop
    async def scenario() -> None:
        async with FakeCluster(tmp_path) as cluster:
            for replica in cluster.replicas:
                replica.is_silent = True
            arguments = ["kv", *words, "--timeout", "60", "--cluster", str(cluster.file)]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, *arguments, stderr=asyncio.subprocess.PIPE
            )
            await until(lambda: any(it.submits or it.reads for it in cluster.replicas))
            process.send_signal(signal.SIGINT)
            _, told = await process.communicate()
            assert (UNKNOWN in told.decode()) is is_unknown
            assert told.decode().endswith("interrupted\n")
            assert process.returncode == exit_codes.INTERRUPTED

    scenario()
