"""usage: python3 write_and_read.py CLIENT COUNT

Puts COUNT keys and reads each back, as client number CLIENT of the cluster that PBFT_CLUSTER names.
Runs on the host and, from its standard input, in the client container.
"""

import asyncio
import os
import sys
from pathlib import Path

from pbft_client import Client

IN_FLIGHT = 50
TIMEOUT_SECONDS = 60.0


async def main(number: int, count: int) -> None:
    """Ends with an exception if one request fails or reads something else."""
    cluster = Path(os.environ["PBFT_CLUSTER"])
    key = cluster.parent / "clients" / f"{number}.key"
    async with await Client.connect(cluster, key=key, timeout=TIMEOUT_SECONDS) as client:
        numbers = iter(range(count))

        async def worker() -> None:
            for index in numbers:
                name, value = b"requests/%d/%d" % (number, index), b"value %d" % index
                await client.put(name, value, timeout=TIMEOUT_SECONDS)
                found = await client.get(name, timeout=TIMEOUT_SECONDS)
                if found is None or found.value != value:
                    raise SystemExit(f"{name!r} is {found}")

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    print(f"{count} written and read")


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
