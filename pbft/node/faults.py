"""Named misbehaviour on a real replica that allows it (operations.md section 6)."""

import secrets
from random import Random

from pbft.core.ports import Signer
from pbft.errors import ConfigurationError
from pbft.faults.api import Behaviour, Corruption
from pbft.faults.registry import Several, make_behaviour
from pbft.genesis import Genesis
from pbft.types import ReplicaId


def parse_fault(text: str) -> tuple[str, dict[str, str]]:
    """Reads `NAME` or `NAME:KEY=VALUE,KEY=VALUE`. Raises ConfigurationError."""
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, separator, value = part.partition("=")
        if not key or not separator:
            raise ConfigurationError(f"fault {text!r}: options are KEY=VALUE, separated by commas")
        options[key] = value
    return name, options


def build_behaviour(
    faults: tuple[str, ...], replica: ReplicaId, genesis: Genesis, signer: Signer
) -> Behaviour | None:
    """All of the faults as one behaviour, None for none. Raises ConfigurationError."""
    if not faults:
        return None
    behaviours = []
    for text in faults:
        name, options = parse_fault(text)
        corruption = Corruption(replica, genesis, signer, Random(secrets.randbits(64)))
        behaviours.append(make_behaviour(name, corruption, options))
    return Several(tuple(behaviours))
