"""The key-value store: etcd v3's semantics on replicated records (service.md sections 2 and 3).

`store` is the service; an operation is checked by `requests` without any state, then works on a
`transaction` (reads see its own writes, nothing is stored before the end) through `operations` and
`branches`; what goes wrong is an `OperationError` of `errors`.
"""
