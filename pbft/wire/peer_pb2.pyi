from pbft.wire import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Challenge(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class PeerFrame(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, items: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PeerItem(_message.Message):
    __slots__ = ("signed", "proposal", "batch", "committed", "stable", "state_request", "state_leaves", "state_chunk")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    STATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    STATE_LEAVES_FIELD_NUMBER: _ClassVar[int]
    STATE_CHUNK_FIELD_NUMBER: _ClassVar[int]
    signed: _message_pb2.Signed
    proposal: Proposal
    batch: bytes
    committed: CommittedBatch
    stable: StableCertificate
    state_request: StateRequest
    state_leaves: StateLeaves
    state_chunk: StateChunk
    def __init__(self, signed: _Optional[_Union[_message_pb2.Signed, _Mapping]] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ..., batch: _Optional[bytes] = ..., committed: _Optional[_Union[CommittedBatch, _Mapping]] = ..., stable: _Optional[_Union[StableCertificate, _Mapping]] = ..., state_request: _Optional[_Union[StateRequest, _Mapping]] = ..., state_leaves: _Optional[_Union[StateLeaves, _Mapping]] = ..., state_chunk: _Optional[_Union[StateChunk, _Mapping]] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("pre_prepare", "batch")
    PRE_PREPARE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    pre_prepare: _message_pb2.Signed
    batch: bytes
    def __init__(self, pre_prepare: _Optional[_Union[_message_pb2.Signed, _Mapping]] = ..., batch: _Optional[bytes] = ...) -> None: ...

class CommittedBatch(_message.Message):
    __slots__ = ("commits", "batch")
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    commits: _containers.RepeatedCompositeFieldContainer[_message_pb2.Signed]
    batch: bytes
    def __init__(self, commits: _Optional[_Iterable[_Union[_message_pb2.Signed, _Mapping]]] = ..., batch: _Optional[bytes] = ...) -> None: ...

class StableCertificate(_message.Message):
    __slots__ = ("checkpoints",)
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[_message_pb2.Signed]
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[_message_pb2.Signed, _Mapping]]] = ...) -> None: ...

class StateRequest(_message.Message):
    __slots__ = ("at_least", "sequence", "buckets", "cursor", "number")
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    at_least: int
    sequence: int
    buckets: bytes
    cursor: bytes
    number: int
    def __init__(self, at_least: _Optional[int] = ..., sequence: _Optional[int] = ..., buckets: _Optional[bytes] = ..., cursor: _Optional[bytes] = ..., number: _Optional[int] = ...) -> None: ...

class Leaf(_message.Message):
    __slots__ = ("count", "bytes", "sum")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    count: int
    bytes: int
    sum: bytes
    def __init__(self, count: _Optional[int] = ..., bytes: _Optional[int] = ..., sum: _Optional[bytes] = ...) -> None: ...

class StateLeaves(_message.Message):
    __slots__ = ("certificate", "leaves")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    certificate: StableCertificate
    leaves: _containers.RepeatedCompositeFieldContainer[Leaf]
    def __init__(self, certificate: _Optional[_Union[StableCertificate, _Mapping]] = ..., leaves: _Optional[_Iterable[_Union[Leaf, _Mapping]]] = ...) -> None: ...

class StateRecord(_message.Message):
    __slots__ = ("domain", "key", "version", "value")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    domain: int
    key: bytes
    version: int
    value: bytes
    def __init__(self, domain: _Optional[int] = ..., key: _Optional[bytes] = ..., version: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class StateChunk(_message.Message):
    __slots__ = ("sequence", "records", "cursor", "number")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    records: _containers.RepeatedCompositeFieldContainer[StateRecord]
    cursor: bytes
    number: int
    def __init__(self, sequence: _Optional[int] = ..., records: _Optional[_Iterable[_Union[StateRecord, _Mapping]]] = ..., cursor: _Optional[bytes] = ..., number: _Optional[int] = ...) -> None: ...
