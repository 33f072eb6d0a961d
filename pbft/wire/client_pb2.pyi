from pbft.wire import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_LINEARIZABLE: _ClassVar[Consistency]
    CONSISTENCY_STALE: _ClassVar[Consistency]
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_LINEARIZABLE: Consistency
CONSISTENCY_STALE: Consistency

class ClientFrame(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ClientItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ClientItem, _Mapping]]] = ...) -> None: ...

class ClientItem(_message.Message):
    __slots__ = ("hello", "submit", "read")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    hello: _message_pb2.Signed
    submit: Submit
    read: ReadRequest
    def __init__(self, hello: _Optional[_Union[_message_pb2.Signed, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., read: _Optional[_Union[ReadRequest, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request", "full_results")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    FULL_RESULTS_FIELD_NUMBER: _ClassVar[int]
    request: _message_pb2.Signed
    full_results: bool
    def __init__(self, request: _Optional[_Union[_message_pb2.Signed, _Mapping]] = ..., full_results: _Optional[bool] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("nonce", "queries", "consistency", "full_results")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    FULL_RESULTS_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    queries: _containers.RepeatedScalarFieldContainer[bytes]
    consistency: Consistency
    full_results: bool
    def __init__(self, nonce: _Optional[int] = ..., queries: _Optional[_Iterable[bytes]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., full_results: _Optional[bool] = ...) -> None: ...

class GatewayFrame(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[GatewayItem]
    def __init__(self, items: _Optional[_Iterable[_Union[GatewayItem, _Mapping]]] = ...) -> None: ...

class GatewayItem(_message.Message):
    __slots__ = ("challenge", "replies", "refusal")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    challenge: GatewayChallenge
    replies: _message_pb2.Signed
    refusal: Refusal
    def __init__(self, challenge: _Optional[_Union[GatewayChallenge, _Mapping]] = ..., replies: _Optional[_Union[_message_pb2.Signed, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class GatewayChallenge(_message.Message):
    __slots__ = ("nonce", "cluster_id")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    cluster_id: bytes
    def __init__(self, nonce: _Optional[bytes] = ..., cluster_id: _Optional[bytes] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("session", "number", "reason")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    session: int
    number: int
    reason: str
    def __init__(self, session: _Optional[int] = ..., number: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
