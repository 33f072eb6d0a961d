"""The protocol: PBFT as a pure, deterministic state machine (Castro & Liskov, OSDI'99; design:
protocol.md).

The contract in ten lines. One caller owns a `Replica` and runs it like this::

    replica = Replica(settings, genesis, signer, verifier, state, service, saved_log)
    perform(replica.start(now))
    while True:
        event = wait_for_any(peer_item, client_item, disk_done, until=replica.next_deadline_us())
        match event:
            case PeerItem(sender, item): perform(replica.receive(sender, verifier.admit(...), now))
            case Submit(client_request):  perform(replica.submit(authenticated, full_results, now))
            case ReadRequest():           perform(replica.read(client, read, now))
            case Sealed():                perform(replica.sealed(sequence, digest, now))
            case Merged() | Installed():  perform(replica.merged(sequence, now)) ...
            case Deadline():              perform(replica.tick(now))

`perform` does the effects in order: what leaves waits for every earlier Persist to be durable
(pbft.core.effects). `now` is an Instant whose monotonic part never decreases. Nothing in this
package
does IO, reads a clock, draws a random number, or is `async`; time comes in, effects go out. An
AssertionError out of a step is a bug of ours and must end the process.
"""
