"""What a replica has on disk: the vote log and the replicated state (protocol.md sections 6, 9,
10).

`directory` creates and opens both; `memory` holds their twins for the simulator.
"""
