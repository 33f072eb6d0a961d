"""The certificates of a testnet: the authority's, and one for each replica, client and operator."""

from typing import TYPE_CHECKING

from pbft.cli.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from pbft.crypto.certificates import Authority
    from pbft.genesis import Genesis


def create_certificates(layout: Layout, genesis: "Genesis") -> None:
    """A new authority, and certificates of it for all whose keys lie in the layout. Raises
    ConfigurationError."""
    from pbft.crypto.certificates import Authority

    authority = Authority.create(genesis.cluster_id)
    authority.save(layout.authority_file, layout.authority_key_file)
    _issue(layout, genesis, authority)


def renew_certificates(layout: Layout, genesis: "Genesis") -> int:
    """New certificates of the same authority in place of the old; returns how many. Raises
    ConfigurationError if the authority's private key is not there."""
    from pbft.crypto.certificates import Authority

    authority = Authority.load(genesis.cluster_id, layout.authority_file, layout.authority_key_file)
    return _issue(layout, genesis, authority)


def _issue(layout: Layout, genesis: "Genesis", authority: "Authority") -> int:
    from pbft.crypto.keys import load_key_pair

    certificates = {
        layout.replica_certificate_file(replica): authority.issue_replica(replica)
        for replica in range(len(genesis.replicas))
    }
    for key_file in layout.clients_directory.glob("*.key"):
        client = load_key_pair(key_file).public
        certificates[key_file.with_suffix(".pem")] = authority.issue_client(client)
    certificates[layout.operator_file] = authority.issue_operator()
    for path, pair in certificates.items():
        _write(path, pair)
    return len(certificates)


def _write(path: "Path", pair: bytes) -> None:
    """Puts a file in the place of an older one at once: a process may be about to read it."""
    from pbft.crypto.keys import write_private_file

    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    write_private_file(partial, pair)
    partial.replace(path)
