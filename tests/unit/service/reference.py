"""A second, naive store to hold the real one against: whole copies of a dictionary, no records, no
limits, each rule of service.md section 3 spelled out once more in the plainest way.
"""

from pbft.wire import kv_pb2

Value = tuple[int, int, int, bytes]
"""create revision, mod revision, version, value"""
Pairs = dict[bytes, Value]

OPERATORS = {
    kv_pb2.Compare.EQUAL: lambda a, b: a == b,
    kv_pb2.Compare.NOT_EQUAL: lambda a, b: a != b,
    kv_pb2.Compare.GREATER: lambda a, b: a > b,
    kv_pb2.Compare.LESS: lambda a, b: a < b,
}


class Wrong(Exception):
    """The operation fails with this code and text."""


def in_range(key: bytes, start: bytes, range_end: bytes) -> bool:
    if range_end == b"":
        return key == start
    if range_end == b"\x00":
        return key >= start
    return start <= key < range_end


class ReferenceStore:
    def __init__(self) -> None:
        self.pairs: Pairs = {}
        self.revision = 1

    def execute(self, request: kv_pb2.RequestOp) -> kv_pb2.Result:
        before = dict(self.pairs)
        self.before, self.start = before, self.revision
        result = kv_pb2.Result()
        try:
            if (kind := request.WhichOneof("request")) is None:
                raise Wrong(3, "key not found")
            getattr(self, f"check_{kind}")(getattr(request, kind), 128)
            if kind == "request_txn":
                self.txn(request.request_txn, result.response.response_txn)
            else:
                if kind == "request_put" and request.request_put.lease:
                    raise Wrong(5, "requested lease not found")
                self.precheck(request)
                self.one(request, result.response)
        except Wrong as wrong:
            self.pairs = before
            code, text = wrong.args
            error = kv_pb2.Error(code=code, message="etcdserver: " + text)
            return kv_pb2.Result(error=error)
        if self.pairs != before:
            self.revision += 1
        return result

    # What is wrong whatever the state.

    def check_request_range(self, request: kv_pb2.RangeRequest, budget: int) -> None:
        if not request.key:
            raise Wrong(3, "key is not provided")
        if request.sort_order not in (0, 1, 2) or request.sort_target not in (0, 1, 2, 3, 4):
            raise Wrong(3, "invalid sort option")

    def check_request_put(self, request: kv_pb2.PutRequest, budget: int) -> None:
        if not request.key:
            raise Wrong(3, "key is not provided")
        if request.ignore_value and request.value:
            raise Wrong(3, "value is provided")
        if request.ignore_lease and request.lease:
            raise Wrong(3, "lease is provided")

    def check_request_delete_range(self, request: kv_pb2.DeleteRangeRequest, budget: int) -> None:
        if not request.key:
            raise Wrong(3, "key is not provided")

    def check_request_txn(self, request: kv_pb2.TxnRequest, budget: int) -> None:
        self.check_txn(request, budget)
        for branch in (request.success, request.failure):
            for world in self.worlds(branch):
                for i, one in enumerate(world):
                    for j, other in enumerate(world):
                        if i != j and self.clash(one, other):
                            raise Wrong(3, "duplicate key given in txn request")

    def check_txn(self, request: kv_pb2.TxnRequest, budget: int) -> None:
        longest = max(len(request.compare), len(request.success), len(request.failure))
        if longest > budget:
            raise Wrong(3, "too many operations in txn request")
        for compare in request.compare:
            if not compare.key:
                raise Wrong(3, "key is not provided")
        for operation in [*request.success, *request.failure]:
            kind = operation.WhichOneof("request")
            if kind is None:
                raise Wrong(3, "key not found")
            check = self.check_txn if kind == "request_txn" else getattr(self, f"check_{kind}")
            check(getattr(operation, kind), budget - longest)

    def worlds(self, operations) -> list[list[kv_pb2.RequestOp]]:
        """Every list of writes that could be executed together."""
        worlds: list[list[kv_pb2.RequestOp]] = [[]]
        for operation in operations:
            if operation.HasField("request_txn"):
                nested = operation.request_txn
                inner = self.worlds(nested.success) + self.worlds(nested.failure)
                worlds = [world + more for world in worlds for more in inner]
            else:
                worlds = [[*world, operation] for world in worlds]
        return worlds

    def clash(self, one: kv_pb2.RequestOp, other: kv_pb2.RequestOp) -> bool:
        if not one.HasField("request_put"):
            return False
        key = one.request_put.key
        if other.HasField("request_put"):
            return other.request_put.key == key
        deletion = other.request_delete_range
        return other.HasField("request_delete_range") and in_range(
            key, deletion.key, deletion.range_end
        )

    # What depends on the state.

    def precheck(self, operation: kv_pb2.RequestOp) -> None:
        put, asked = operation.request_put, operation.request_range.revision
        if (put.ignore_value or put.ignore_lease) and put.key not in self.before:
            raise Wrong(3, "key not found")
        if put.lease:
            raise Wrong(5, "requested lease not found")
        if asked > self.start:
            raise Wrong(11, "mvcc: required revision is a future revision")
        if 0 < asked < self.start:
            raise Wrong(11, "mvcc: required revision has been compacted")

    def header(self, response) -> None:
        response.header.revision = self.start + (self.pairs != self.before)

    def one(self, operation: kv_pb2.RequestOp, response: kv_pb2.ResponseOp) -> None:
        kind = operation.WhichOneof("request")
        answer = getattr(response, kind.replace("request", "response"))
        getattr(self, kind.removeprefix("request_"))(getattr(operation, kind), answer)
        self.header(answer)

    def pair(self, pairs: Pairs, key: bytes, keys_only: bool = False) -> kv_pb2.KeyValue:
        create, mod, version, value = pairs[key]
        return kv_pb2.KeyValue(
            key=key,
            create_revision=create,
            mod_revision=mod,
            version=version,
            value=b"" if keys_only else value,
        )

    def range(self, request: kv_pb2.RangeRequest, response: kv_pb2.RangeResponse) -> None:
        pairs = self.before if request.revision > 0 else self.pairs
        keys = sorted(key for key in pairs if in_range(key, request.key, request.range_end))
        response.count = len(keys)
        if request.count_only:
            return
        for name, index in (("create", 0), ("mod", 1)):
            if low := getattr(request, f"min_{name}_revision"):
                keys = [key for key in keys if pairs[key][index] >= low]
            if high := getattr(request, f"max_{name}_revision"):
                keys = [key for key in keys if pairs[key][index] <= high]
        if request.sort_target:
            index = {1: 2, 2: 0, 3: 1, 4: 3}[request.sort_target]
            groups = sorted({pairs[key][index] for key in keys}, reverse=request.sort_order == 2)
            keys = [key for group in groups for key in keys if pairs[key][index] == group]
        elif request.sort_order == 2:
            keys = keys[::-1]
        if 0 < request.limit < len(keys):
            keys = keys[: request.limit]
            response.more = True
        response.kvs.extend(self.pair(pairs, key, request.keys_only) for key in keys)

    def put(self, request: kv_pb2.PutRequest, response: kv_pb2.PutResponse) -> None:
        key, now = request.key, self.start + 1
        create, _, version, value = self.pairs.get(key, (now, 0, 0, b""))
        if request.prev_kv and key in self.pairs:
            response.prev_kv.CopyFrom(self.pair(self.pairs, key))
        value = value if request.ignore_value else request.value
        self.pairs[key] = (create, now, version + 1, value)

    def delete_range(
        self, request: kv_pb2.DeleteRangeRequest, response: kv_pb2.DeleteRangeResponse
    ) -> None:
        keys = [key for key in self.pairs if in_range(key, request.key, request.range_end)]
        for key in sorted(keys):
            response.deleted += 1
            if request.prev_kv:
                response.prev_kvs.append(self.pair(self.pairs, key))
            del self.pairs[key]

    def txn(self, request: kv_pb2.TxnRequest, response: kv_pb2.TxnResponse) -> None:
        path = self.path(request)
        self.walk(path, lambda operation: operation.HasField("request_put"))
        self.walk(path, lambda operation: operation.HasField("request_range"))
        self.take(path, response)
        self.header(response)

    def path(self, request: kv_pb2.TxnRequest):
        succeeded = all([self.holds(compare) for compare in request.compare])
        chosen = request.success if succeeded else request.failure
        nested = [
            self.path(operation.request_txn) if operation.HasField("request_txn") else None
            for operation in chosen
        ]
        return succeeded, list(zip(chosen, nested, strict=True))

    def walk(self, path, wanted) -> None:
        for operation, nested in path[1]:
            if nested is not None:
                self.walk(nested, wanted)
            elif wanted(operation):
                self.precheck(operation)

    def take(self, path, response: kv_pb2.TxnResponse) -> None:
        response.succeeded = path[0]
        for operation, nested in path[1]:
            item = response.responses.add()
            if nested is None:
                self.one(operation, item)
            else:
                item.response_txn.header.SetInParent()
                self.take(nested, item.response_txn)

    def holds(self, compare: kv_pb2.Compare) -> bool:
        keys = [key for key in self.pairs if in_range(key, compare.key, compare.range_end)]
        rows = [self.pairs[key] for key in keys]
        operator = OPERATORS[compare.result]
        if compare.target == kv_pb2.Compare.VALUE:
            return bool(rows) and all(operator(row[3], compare.value) for row in rows)
        index, expected = {
            kv_pb2.Compare.VERSION: (2, compare.version),
            kv_pb2.Compare.CREATE: (0, compare.create_revision),
            kv_pb2.Compare.MOD: (1, compare.mod_revision),
            kv_pb2.Compare.LEASE: (None, compare.lease),
        }[compare.target]
        found = [0 if index is None else row[index] for row in rows] or [0]
        return all(operator(value, expected) for value in found)
