"""`python -m tests.process.burst`: 100,000 puts at once from one client.

Each must be acknowledged, executed once and found again, and what waits at a replica meanwhile must
stay within its bounds and be gone at the end.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from bench.local_cluster import in_cluster
from pbft.cli.admin import admin_addresses, read_samples, total
from pbft.cli.supervisor import LocalCluster
from pbft.limits import LocalLimits
from pbft.transport.api import PeerLimits
from pbft_client import Client
from tests.process.helpers import connect

KEYS_PER_PREFIX = 500
POLL_SECONDS = 0.05
DRAINED_SECONDS_MAX = 30.0
TIMEOUT_SECONDS = 540.0
"""Of each put: most of them wait for all the others."""
PENDING = "pbft_pending_requests"
QUEUE = "pbft_peer_queue_bytes"


@dataclass(slots=True)
class Queues:
    """What waits at the replicas, and the most that ever did at one of them."""

    addresses: list[str]
    looks: int = 0
    peak: dict[str, int] = field(default_factory=lambda: {PENDING: 0, QUEUE: 0})
    """Requests, and bytes for one peer."""
    dropped: int = 0
    """Rejections because a queue was full."""

    def look(self) -> int:
        """Takes note; returns how many requests wait now at the replica that has most."""
        pending, self.dropped = 0, 0
        for address in self.addresses:
            samples = read_samples(address)
            for sample in samples:
                if sample.name in self.peak:
                    self.peak[sample.name] = max(self.peak[sample.name], int(sample.value))
            pending = max(pending, int(total(samples, PENDING)))
            self.dropped += int(total(samples, "pbft_rejected_total", reason="queue_full"))
        self.looks += 1
        return pending

    async def watch(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(POLL_SECONDS)


def key_of(number: int) -> bytes:
    """The key of a put: some hundreds have a prefix in common, so that one range reads them."""
    return b"burst/%04d/%04d" % divmod(number, KEYS_PER_PREFIX)


async def require_all(client: Client, puts: int) -> None:
    """Every key is there, with its value, and was written once."""
    found = 0
    for prefix in range(-(-puts // KEYS_PER_PREFIX)):
        pairs = await client.range(prefix=b"burst/%04d/" % prefix, timeout=60.0)
        for index, pair in enumerate(pairs, prefix * KEYS_PER_PREFIX):
            assert (pair.key, pair.value, pair.version) == (key_of(index), b"%d" % index, 1)
            found += 1
    assert found == puts, f"{puts - found} of {puts} acknowledged puts are lost"


async def burst(cluster: LocalCluster, puts: int) -> None:
    """Raises AssertionError or ClientError if anything that must hold does not."""
    queues = Queues(admin_addresses(cluster.layout.cluster_file))
    async with AsyncExitStack() as stack:
        (client,) = await connect(stack, cluster, 1)
        watching = asyncio.create_task(queues.watch())
        begin = time.monotonic()
        results = await asyncio.gather(
            *(client.put(key_of(i), b"%d" % i, timeout=TIMEOUT_SECONDS) for i in range(puts))
        )
        seconds = time.monotonic() - begin
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        assert len({result.revision for result in results}) == puts, "two puts share a revision"
        deadline = time.monotonic() + DRAINED_SECONDS_MAX
        while (waiting := await asyncio.to_thread(queues.look)) > 0:
            assert time.monotonic() < deadline, f"{waiting} requests still wait"
            await asyncio.sleep(POLL_SECONDS)
        await require_all(client, puts)
    print(f"{puts} puts at once: all acknowledged in {seconds:.1f} s and found again")
    print(f"at most at one replica, in {queues.looks} looks: {queues.peak}")
    assert queues.looks > 1
    assert queues.peak[PENDING] <= LocalLimits().pending_requests_per_client
    assert queues.peak[QUEUE] <= PeerLimits().queue_bytes
    assert queues.dropped == 0, f"{queues.dropped} messages were dropped because of full queues"


def main() -> int:
    """Runs the burst on a cluster of its own; 0 if all held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--puts", type=int, default=100_000)
    puts = parser.parse_args().puts
    in_cluster(lambda cluster: burst(cluster, puts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
