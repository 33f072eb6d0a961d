"""A replica's TOML: strict, with errors that name the key and say what to do."""

from dataclasses import replace
from pathlib import Path

import pytest

from pbft.core.settings import Timers
from pbft.errors import ConfigurationError
from pbft.genesis import Genesis
from pbft.node.config import Address, NodeConfiguration, dump_configuration, load_configuration

GENESIS = Genesis.create(
    nonce=bytes(32),
    replicas=tuple(bytes([index]) * 32 for index in range(4)),
    clients=frozenset(),
)
PEERS = {index: Address("127.0.0.1", 7_000 + index) for index in (0, 2, 3)}


def configuration(directory: Path) -> NodeConfiguration:
    return NodeConfiguration(
        replica=1,
        genesis=directory / "genesis.toml",
        key=directory / "replica1" / "replica.key",
        data=directory / "replica1" / "data",
        peer_address=Address("127.0.0.1", 7_001),
        client_address=Address("localhost", 7_101),
        admin_address=Address("::1", 7_201),
        peers=PEERS,
        certificate=directory / "replica1" / "replica.pem",
        authority=directory / "authority.pem",
        pipeline_depth=3,
        timers=Timers(request_timeout_us=1_500_000),
    )


def write(directory: Path, *changes: tuple[str, str]) -> Path:
    """The file of `configuration` with lines replaced: (start of the line, new line)."""
    path = directory / "replica1" / "replica.toml"
    path.parent.mkdir(exist_ok=True)
    lines = dump_configuration(configuration(directory), path.parent).splitlines()
    for start, new in changes:
        found = [index for index, line in enumerate(lines) if line.startswith(start)]
        lines[found[0] if found else 0 : found[0] + 1 if found else 0] = [new]
    path.write_text("\n".join(lines))
    return path


def same(one: NodeConfiguration, other: NodeConfiguration) -> bool:
    def resolved(it: NodeConfiguration) -> NodeConfiguration:
        assert it.certificate is not None and it.authority is not None
        return replace(
            it,
            genesis=it.genesis.resolve(),
            key=it.key.resolve(),
            data=it.data.resolve(),
            certificate=it.certificate.resolve(),
            authority=it.authority.resolve(),
        )

    return resolved(one) == resolved(other)


def test_what_is_written_is_read_back_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    assert 'genesis = "../genesis.toml"' in path.read_text()
    monkeypatch.chdir("/")
    assert same(load_configuration(path, environment={}), configuration(tmp_path))


def test_odd_characters_in_paths_survive(tmp_path: Path) -> None:
    odd = replace(configuration(tmp_path), data=tmp_path / 'a "b"\\c\n')
    path = tmp_path / "replica.toml"
    path.write_text(dump_configuration(odd, tmp_path))
    assert load_configuration(path, environment={}).data == tmp_path / 'a "b"\\c\n'


def test_flag_over_variable_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, ("pipeline_depth", ""))
    assert load_configuration(path, environment={}).pipeline_depth == 3
    path = write(tmp_path)
    assert load_configuration(path, environment={}).pipeline_depth == 3
    environment = {
        "PBFT_PIPELINE_DEPTH": "5",
        "PBFT_DATA": "elsewhere",
        "PBFT_KEY": "a client's key, which another command reads",
        "PBFT_CLUSTER": "another command's",
        "PBFT_ALLOW_FAULT_INJECTION": "true",
    }
    loaded = load_configuration(path, environment=environment)
    assert loaded.pipeline_depth == 5
    assert loaded.data == Path("elsewhere")
    assert loaded.key == configuration(tmp_path).key.parent.parent / "replica1" / "replica.key"
    assert loaded.allow_fault_injection
    flags = {"pipeline_depth": "6", "faults": "silent drop", "client_address": "[::1]:9"}
    loaded = load_configuration(path, flags, environment)
    assert loaded.pipeline_depth == 6
    assert loaded.faults == ("silent", "drop")
    assert loaded.client_address == Address("::1", 9)


@pytest.mark.parametrize(
    ("start", "line", "text"),
    [
        ("replica =", "replica = -1", "replica must be a whole number"),
        ("replica =", "replica = true", "replica must be a whole number"),
        ("replica =", "", "lacks the key replica"),
        ("data", "data = 5", "data must be a text"),
        ("colour", "colour = 1", "unknown key colour"),
        ("peer_address", 'peer_address = "127.0.0.1"', "peer_address: '127.0.0.1' is not host"),
        ("peer_address", 'peer_address = "h:99999"', "above 65535"),
        ("certificate", "", "TLS needs the key certificate.*insecure = true"),
        ("authority", "", "TLS needs the key authority.*--insecure"),
        ("authority", "authority = 5", "authority must be a text"),
        ("insecure", "insecure = 1", "insecure must be true or false"),
        ("faults", 'faults = ["silent"]', "allow_fault_injection"),
        ("faults", "faults = [1]", "faults must be a list of texts"),
        ("pipeline_depth", "pipeline_depth = 0", "at least 1"),
        ("0 =", 'zero = "127.0.0.1:1"', "peers.zero"),
        ("0 =", '0 = "nowhere"', "peers.0"),
        ("0 =", "0 = 7", "peers.0"),
        ("[timers]", "timers = 5\n[other]", "unknown key other"),
        ("status_fast_us", "status_fast_us = 0", "timers.status_fast_us"),
        ("status_fast_us", "status_fast = 5", "unknown key timers.status_fast"),
        ("replica =", "replica = = 1", "not a TOML file"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, start: str, line: str, text: str) -> None:
    path = write(tmp_path, (start, line))
    with pytest.raises(ConfigurationError, match=text) as caught:
        load_configuration(path, environment={})
    assert str(path) in str(caught.value)


def test_a_mistake_in_a_variable_or_flag_names_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ConfigurationError, match="PBFT_PIPELINE_DEPTH"):
        load_configuration(path, environment={"PBFT_PIPELINE_DEPTH": "many"})
    with pytest.raises(ConfigurationError, match="--insecure"):
        load_configuration(path, {"insecure": "perhaps"}, {})
    with pytest.raises(ConfigurationError, match="--nonsense"):
        load_configuration(path, {"nonsense": "1"}, {})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pbft testnet init"):
        load_configuration(tmp_path / "replica.toml", environment={})


def test_plain_text_needs_no_certificate_once_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, ("insecure", "insecure = true"), ("certificate", ""), ("authority", ""))
    loaded = load_configuration(path, environment={})
    assert loaded.insecure
    assert loaded.certificate is None and loaded.authority is None


def test_the_genesis_decides_who_the_peers_are(tmp_path: Path) -> None:
    it = configuration(tmp_path)
    it.check_against(GENESIS)
    with pytest.raises(ConfigurationError, match="lacks the address of replica 2"):
        replace(it, peers={0: PEERS[0], 3: PEERS[3]}).check_against(GENESIS)
    with pytest.raises(ConfigurationError, match="names replica 1"):
        replace(it, peers={**PEERS, 1: PEERS[0]}).check_against(GENESIS)
    with pytest.raises(ConfigurationError, match="replica 4 is not in the genesis"):
        replace(it, replica=4).check_against(GENESIS)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_addresses(text: str) -> None:
    assert str(Address.parse(text)) == text
