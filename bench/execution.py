"""`python -m bench.execution`: what executing a put costs one replica, without network and
votes.

Puts of one key each go through the key-value service into the state on disk; a checkpoint is taken
and merged every `--interval` puts. Prints microseconds of CPU per put, by what they are spent on.
"""

import random
import tempfile
import time
from pathlib import Path

import click

from pbft.cli.load import KEYS, key_of
from pbft.cli.output import print_table
from pbft.core.effects import Merge
from pbft.genesis import ProtocolConstants
from pbft.limits import ProtocolLimits
from pbft.service.api import Room
from pbft.service.kv.store import KeyValueStore
from pbft.storage.lmdb_base import LmdbBase
from pbft.storage.state import LayeredState
from pbft.types import UINT64_MAX, Digest
from pbft.wire import kv_pb2

CLIENT = bytes(32)
REQUEST_OPERATIONS = 256
"""Puts that come in one request."""


@click.command()
@click.option("--puts", type=click.IntRange(min=1), default=200_000, show_default=True)
@click.option("--interval", type=click.IntRange(min=1), default=16_384, show_default=True)
@click.option("--keys", type=click.IntRange(min=1), default=KEYS, show_default=True)
@click.option("--value-size", type=int, default=100, show_default=True)
def main(puts: int, interval: int, keys: int, value_size: int) -> None:
    """Measure the cost of executing puts."""
    source = random.Random(0)
    operations = [_encoded(source, keys, value_size) for _ in range(puts)]
    spent = {"execute": 0.0, "checkpoint": 0.0, "merge": 0.0}
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as directory:
        constants = ProtocolConstants()
        base = LmdbBase(Path(directory), create=True)
        state = LayeredState(base, constants.buckets, constants.bucket_salt)
        store = KeyValueStore(state, ProtocolLimits())
        for start in range(0, puts, interval):
            times = [time.process_time()]
            for at in range(start, min(puts, start + interval), REQUEST_OPERATIONS):
                request = operations[at : min(at + REQUEST_OPERATIONS, start + interval)]
                store.execute_all(request, 0, CLIENT, Room(UINT64_MAX, UINT64_MAX))
            times.append(time.process_time())
            sequence = start + interval
            digest = seal(state, sequence)
            times.append(time.process_time())
            plan = state.begin_merge(Merge(sequence, digest, ()))
            plan.run()
            state.finish_merge(plan)
            times.append(time.process_time())
            for name, begin, end in zip(spent, times, times[1:], strict=False):
                spent[name] += end - begin
        state.close()
        base.close()
    rows: list[list[object]] = [[name, round(s / puts * 1e6, 2)] for name, s in spent.items()]
    rows.append(["all", round(sum(spent.values()) / puts * 1e6, 2)])
    print_table(["what", "microseconds_per_put"], rows)


def seal(state: LayeredState, sequence: int) -> Digest:
    """Takes a checkpoint and returns its digest."""
    state.seal(sequence)
    while (sealed := state.advance_seal()) is None:
        pass
    return sealed[1]


def _encoded(source: random.Random, keys: int, value_size: int) -> bytes:
    put = kv_pb2.PutRequest(key=key_of(source.randrange(keys)), value=source.randbytes(value_size))
    return kv_pb2.RequestOp(request_put=put).SerializeToString()


if __name__ == "__main__":
    main()
