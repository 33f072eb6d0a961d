"""Client library of the PBFT key-value cluster.

from pbft_client import Client

async with await Client.connect("cluster.toml", key="alice.key") as kv: await
kv.put(b"config/color", b"blue") pair = await kv.get(b"config/color")

Names are imported when they are first used: gRPC alone takes a quarter of a second to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbft_client.client import Client, ReadConsistency
    from pbft_client.cluster_file import ClusterFile, ReplicaAddresses
    from pbft_client.engine import ClientSettings
    from pbft_client.errors import (
        Answers,
        Cancellation,
        ClientClosed,
        ClientError,
        DefiniteFailure,
        InvalidCall,
        OutcomeUnknown,
        RequestRejected,
        ResultForgotten,
        ServiceError,
        TooFewAnswers,
        UnexpectedResult,
        may_take_effect,
    )
    from pbft_client.results import (
        CasResult,
        DeleteResult,
        Executed,
        Execution,
        KeyValue,
        PutResult,
        RangeResult,
    )
    from pbft_client.sync import SyncClient

_HOME = {
    "Client": "client",
    "ReadConsistency": "client",
    "ClusterFile": "cluster_file",
    "ReplicaAddresses": "cluster_file",
    "ClientSettings": "engine",
    "Answers": "errors",
    "Cancellation": "errors",
    "ClientClosed": "errors",
    "ClientError": "errors",
    "DefiniteFailure": "errors",
    "InvalidCall": "errors",
    "OutcomeUnknown": "errors",
    "RequestRejected": "errors",
    "ResultForgotten": "errors",
    "ServiceError": "errors",
    "TooFewAnswers": "errors",
    "UnexpectedResult": "errors",
    "may_take_effect": "errors",
    "CasResult": "results",
    "DeleteResult": "results",
    "Executed": "results",
    "Execution": "results",
    "KeyValue": "results",
    "PutResult": "results",
    "RangeResult": "results",
    "SyncClient": "sync",
}

__all__ = [
    "Answers",
    "Cancellation",
    "CasResult",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientSettings",
    "ClusterFile",
    "DefiniteFailure",
    "DeleteResult",
    "Executed",
    "Execution",
    "InvalidCall",
    "KeyValue",
    "OutcomeUnknown",
    "PutResult",
    "RangeResult",
    "ReadConsistency",
    "ReplicaAddresses",
    "RequestRejected",
    "ResultForgotten",
    "ServiceError",
    "SyncClient",
    "TooFewAnswers",
    "UnexpectedResult",
    "may_take_effect",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
