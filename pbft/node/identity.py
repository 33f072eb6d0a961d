"""The certificate that a replica shows, and the authority that it trusts (operations.md section
3)."""

from pbft.crypto.certificates import days_left, uri_names
from pbft.crypto.tls import TlsIdentity, load_identity, replica_name, sole_name
from pbft.errors import ConfigurationError
from pbft.genesis import Genesis
from pbft.node.config import NodeConfiguration


def load_own_identity(configuration: NodeConfiguration, genesis: Genesis) -> TlsIdentity | None:
    """The TLS identity that a configuration names, None where it says `insecure`.

    Raises ConfigurationError if it cannot be read, is another replica's, or has expired.
    """
    if configuration.insecure:
        return None
    certificate, authority = configuration.certificate, configuration.authority
    if certificate is None or authority is None:
        raise ConfigurationError("TLS needs `certificate` and `authority`, or `insecure = true`")
    identity = load_identity(authority, certificate)
    name = sole_name(uri_names(identity.certificate))
    if name != replica_name(genesis.cluster_id, configuration.replica):
        raise ConfigurationError(
            f"{certificate} is not the certificate of replica {configuration.replica} in "
            f"{configuration.genesis}: check `replica` and `certificate`"
        )
    for path, shown in ((certificate, identity.certificate), (authority, identity.authority)):
        if days_left(shown) < 0:
            raise ConfigurationError(
                f"the certificate {path} has expired: nobody will accept it; make new ones with "
                "`pbft testnet renew`"
            )
    return identity


def days_until_expiry(identity: TlsIdentity) -> int:
    """Whole days until the first of the two certificates expires."""
    return min(days_left(identity.certificate), days_left(identity.authority))
