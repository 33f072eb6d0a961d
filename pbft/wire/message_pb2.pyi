from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_REQUEST: _ClassVar[Kind]
    KIND_HELLO: _ClassVar[Kind]
    KIND_PRE_PREPARE: _ClassVar[Kind]
    KIND_PREPARE: _ClassVar[Kind]
    KIND_COMMIT: _ClassVar[Kind]
    KIND_CHECKPOINT: _ClassVar[Kind]
    KIND_VIEW_CHANGE: _ClassVar[Kind]
    KIND_NEW_VIEW: _ClassVar[Kind]
    KIND_STATUS: _ClassVar[Kind]
    KIND_REPLIES: _ClassVar[Kind]
    KIND_READ_REPLIES: _ClassVar[Kind]
    KIND_RECALL: _ClassVar[Kind]
    KIND_RECALLED: _ClassVar[Kind]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_CLIENT: _ClassVar[Role]
    ROLE_REPLICA: _ClassVar[Role]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_EXECUTED: _ClassVar[Outcome]
    OUTCOME_SESSION_EXPIRED: _ClassVar[Outcome]
    OUTCOME_CONFLICT: _ClassVar[Outcome]
    OUTCOME_EXPIRED: _ClassVar[Outcome]
    OUTCOME_CLIENT_REFUSED: _ClassVar[Outcome]
    OUTCOME_RESULT_FORGOTTEN: _ClassVar[Outcome]
    OUTCOME_SESSION_CLOSED: _ClassVar[Outcome]
KIND_UNSPECIFIED: Kind
KIND_REQUEST: Kind
KIND_HELLO: Kind
KIND_PRE_PREPARE: Kind
KIND_PREPARE: Kind
KIND_COMMIT: Kind
KIND_CHECKPOINT: Kind
KIND_VIEW_CHANGE: Kind
KIND_NEW_VIEW: Kind
KIND_STATUS: Kind
KIND_REPLIES: Kind
KIND_READ_REPLIES: Kind
KIND_RECALL: Kind
KIND_RECALLED: Kind
ROLE_UNSPECIFIED: Role
ROLE_CLIENT: Role
ROLE_REPLICA: Role
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_EXECUTED: Outcome
OUTCOME_SESSION_EXPIRED: Outcome
OUTCOME_CONFLICT: Outcome
OUTCOME_EXPIRED: Outcome
OUTCOME_CLIENT_REFUSED: Outcome
OUTCOME_RESULT_FORGOTTEN: Outcome
OUTCOME_SESSION_CLOSED: Outcome

class Signed(_message.Message):
    __slots__ = ("kind", "replica", "client", "payload", "signature")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    replica: int
    client: bytes
    payload: bytes
    signature: bytes
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., replica: _Optional[int] = ..., client: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("role", "key", "nonce")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    role: Role
    key: bytes
    nonce: bytes
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., key: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("client", "session", "number", "acknowledged", "expires_at_us", "operations", "close_session")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_US_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_SESSION_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    session: int
    number: int
    acknowledged: int
    expires_at_us: int
    operations: _containers.RepeatedScalarFieldContainer[bytes]
    close_session: bool
    def __init__(self, client: _Optional[bytes] = ..., session: _Optional[int] = ..., number: _Optional[int] = ..., acknowledged: _Optional[int] = ..., expires_at_us: _Optional[int] = ..., operations: _Optional[_Iterable[bytes]] = ..., close_session: _Optional[bool] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("time_us", "items")
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    time_us: int
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, time_us: _Optional[int] = ..., items: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("view", "sequence", "digest")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    view: int
    sequence: int
    digest: bytes
    def __init__(self, view: _Optional[int] = ..., sequence: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("sequence", "digest")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    digest: bytes
    def __init__(self, sequence: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class PreparedProof(_message.Message):
    __slots__ = ("pre_prepare", "prepares")
    PRE_PREPARE_FIELD_NUMBER: _ClassVar[int]
    PREPARES_FIELD_NUMBER: _ClassVar[int]
    pre_prepare: Signed
    prepares: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, pre_prepare: _Optional[_Union[Signed, _Mapping]] = ..., prepares: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class ViewChange(_message.Message):
    __slots__ = ("view", "replica", "incarnation", "stable_sequence", "checkpoints", "prepared")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    view: int
    replica: int
    incarnation: int
    stable_sequence: int
    checkpoints: _containers.RepeatedCompositeFieldContainer[Signed]
    prepared: _containers.RepeatedCompositeFieldContainer[PreparedProof]
    def __init__(self, view: _Optional[int] = ..., replica: _Optional[int] = ..., incarnation: _Optional[int] = ..., stable_sequence: _Optional[int] = ..., checkpoints: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., prepared: _Optional[_Iterable[_Union[PreparedProof, _Mapping]]] = ...) -> None: ...

class NewView(_message.Message):
    __slots__ = ("view", "view_changes", "pre_prepares")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    VIEW_CHANGES_FIELD_NUMBER: _ClassVar[int]
    PRE_PREPARES_FIELD_NUMBER: _ClassVar[int]
    view: int
    view_changes: _containers.RepeatedCompositeFieldContainer[Signed]
    pre_prepares: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, view: _Optional[int] = ..., view_changes: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., pre_prepares: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("view", "normal", "stable_sequence", "executed", "clock_us", "suspects", "primary_unreachable", "prepared", "committed", "accepted", "view_changes", "missing")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    STABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    CLOCK_US_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    VIEW_CHANGES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    view: int
    normal: bool
    stable_sequence: int
    executed: int
    clock_us: int
    suspects: bool
    primary_unreachable: bool
    prepared: bytes
    committed: bytes
    accepted: bytes
    view_changes: int
    missing: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, view: _Optional[int] = ..., normal: _Optional[bool] = ..., stable_sequence: _Optional[int] = ..., executed: _Optional[int] = ..., clock_us: _Optional[int] = ..., suspects: _Optional[bool] = ..., primary_unreachable: _Optional[bool] = ..., prepared: _Optional[bytes] = ..., committed: _Optional[bytes] = ..., accepted: _Optional[bytes] = ..., view_changes: _Optional[int] = ..., missing: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Recall(_message.Message):
    __slots__ = ("replica", "nonce")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    replica: int
    nonce: bytes
    def __init__(self, replica: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Recalled(_message.Message):
    __slots__ = ("replica", "nonce", "view", "stable_sequence", "checkpoints", "view_change", "votes")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    STABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    VIEW_CHANGE_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    replica: int
    nonce: bytes
    view: int
    stable_sequence: int
    checkpoints: _containers.RepeatedCompositeFieldContainer[Signed]
    view_change: Signed
    votes: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, replica: _Optional[int] = ..., nonce: _Optional[bytes] = ..., view: _Optional[int] = ..., stable_sequence: _Optional[int] = ..., checkpoints: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., view_change: _Optional[_Union[Signed, _Mapping]] = ..., votes: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("session", "number", "request_digest", "sequence", "agreed_time_us", "outcome", "results_digest", "full", "results", "highest_session")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGREED_TIME_US_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    RESULTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    number: int
    request_digest: bytes
    sequence: int
    agreed_time_us: int
    outcome: Outcome
    results_digest: bytes
    full: bool
    results: _containers.RepeatedScalarFieldContainer[bytes]
    highest_session: int
    def __init__(self, session: _Optional[int] = ..., number: _Optional[int] = ..., request_digest: _Optional[bytes] = ..., sequence: _Optional[int] = ..., agreed_time_us: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., results_digest: _Optional[bytes] = ..., full: _Optional[bool] = ..., results: _Optional[_Iterable[bytes]] = ..., highest_session: _Optional[int] = ...) -> None: ...

class Replies(_message.Message):
    __slots__ = ("client", "view", "replies")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    view: int
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    def __init__(self, client: _Optional[bytes] = ..., view: _Optional[int] = ..., replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ...) -> None: ...

class ReadReply(_message.Message):
    __slots__ = ("nonce", "query_digest", "results_digest", "full", "results", "sequence", "refused")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    QUERY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RESULTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    query_digest: bytes
    results_digest: bytes
    full: bool
    results: _containers.RepeatedScalarFieldContainer[bytes]
    sequence: int
    refused: bool
    def __init__(self, nonce: _Optional[int] = ..., query_digest: _Optional[bytes] = ..., results_digest: _Optional[bytes] = ..., full: _Optional[bool] = ..., results: _Optional[_Iterable[bytes]] = ..., sequence: _Optional[int] = ..., refused: _Optional[bool] = ...) -> None: ...

class ReadReplies(_message.Message):
    __slots__ = ("client", "view", "replies")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    view: int
    replies: _containers.RepeatedCompositeFieldContainer[ReadReply]
    def __init__(self, client: _Optional[bytes] = ..., view: _Optional[int] = ..., replies: _Optional[_Iterable[_Union[ReadReply, _Mapping]]] = ...) -> None: ...
