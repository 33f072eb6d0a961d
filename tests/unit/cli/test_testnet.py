"""A new testnet: everything is there, private, consistent, and never overwritten."""

import json
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from pbft.cli import testnet as testnet_module
from pbft.cli.failure import CommandFailed
from pbft.cli.layout import Layout
from pbft.cli.local import open_or_create
from pbft.cli.main import run
from pbft.cli.testnet import HOST, PARTIAL, PORTS_PER_REPLICA, choose_ports, create_testnet
from pbft.crypto.keys import load_key_pair
from pbft.genesis import parse_genesis
from pbft.node.config import load_configuration
from pbft.storage import directory as storage
from pbft_client.cluster_file import load_cluster_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_files_fit_each_other(tmp_path: Path) -> None:
    out = tmp_path / "net"
    assert run(["testnet", "init", "--replicas", "5", "--clients", "3", "--out", str(out)]) == 0
    layout = Layout(out)
    genesis = parse_genesis(layout.genesis_file.read_bytes())
    assert layout.replicas() == [0, 1, 2, 3, 4]
    for replica in layout.replicas():
        configuration = load_configuration(layout.configuration_file(replica), environment={})
        configuration.check_against(genesis)
        assert configuration.replica == replica
        assert load_key_pair(configuration.key).public == genesis.replicas[replica]
        assert configuration.genesis.samefile(layout.genesis_file)
        assert not configuration.data.exists()
        assert not configuration.allow_fault_injection
    keys = {load_key_pair(layout.client_key_file(client)).public for client in range(3)}
    assert keys == genesis.clients
    assert not layout.client_key_file(3).exists()


def test_cluster_file_names_where_the_replicas_listen(tmp_path: Path) -> None:
    layout = create_testnet(tmp_path / "net", replicas=4, clients=1)
    cluster = load_cluster_file(layout.cluster_file)
    assert cluster.genesis.samefile(layout.genesis_file)
    assert cluster.key is not None and cluster.key.samefile(layout.client_key_file(0))
    peers = {}
    for replica, addresses in enumerate(cluster.replicas):
        configuration = load_configuration(layout.configuration_file(replica), environment={})
        assert str(configuration.client_address) == addresses.client
        assert str(configuration.admin_address) == addresses.admin
        peers[replica] = configuration.peer_address
    for replica in peers:
        configuration = load_configuration(layout.configuration_file(replica), environment={})
        others = {index: address for index, address in peers.items() if index != replica}
        assert dict(configuration.peers) == others


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        layout = create_testnet(tmp_path / "net", replicas=4, clients=2)
    finally:
        os.umask(before)
    secret_files = [
        layout.client_key_file(1),
        layout.client_certificate_file(1),
        layout.replica_key_file(3),
        layout.replica_certificate_file(3),
        layout.operator_file,
        layout.authority_key_file,
    ]
    assert {mode(path) for path in secret_files} == {0o600}
    assert {mode(path.parent) for path in secret_files} == {0o700}


def test_a_testnet_can_be_moved(tmp_path: Path) -> None:
    create_testnet(tmp_path / "net", replicas=4, clients=1)
    (tmp_path / "net").rename(tmp_path / "moved")
    layout = Layout(tmp_path / "moved")
    assert load_configuration(layout.configuration_file(0), environment={}).genesis.exists()
    assert load_cluster_file(layout.cluster_file).genesis.exists()


def test_two_testnets_are_different_clusters(tmp_path: Path) -> None:
    ids = {
        parse_genesis(create_testnet(tmp_path / name, 4, 1).genesis_file.read_bytes()).cluster_id
        for name in ("a", "b")
    }
    assert len(ids) == 2


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net"
    assert run(["testnet", "init", "--clients", "1", "--out", str(out)]) == 0
    before = Layout(out).replica_key_file(0).read_bytes()
    capsys.readouterr()
    assert run(["testnet", "init", "--clients", "1", "--out", str(out)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert Layout(out).replica_key_file(0).read_bytes() == before
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CommandFailed, match="is a file"):
        create_testnet(file, 4)


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("end", [OSError("disk full"), KeyboardInterrupt()])
def test_a_testnet_that_was_not_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, end: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise end

    out = tmp_path / "net"
    if is_there:
        out.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(testnet_module, "_write_cluster_file", fail)
        with pytest.raises(type(end)):
            create_testnet(out, 4, 1)
    assert list(tmp_path.rglob("*")) == ([out] if is_there else [])
    create_testnet(out, 4, 1)


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("moment", ["choose_ports", "_write_configuration"])
def test_of_two_that_make_a_testnet_at_once_the_first_to_finish_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, moment: str
) -> None:
    out = tmp_path / "net"
    if is_there:
        out.mkdir()
    step = getattr(testnet_module, moment)
    files: dict[Path, bytes] = {}

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(testnet_module, moment, step)
        create_testnet(out, 4, 1)
        files.update(contents(out))
        return step(*arguments)

    monkeypatch.setattr(testnet_module, moment, overtaken)
    with pytest.raises(CommandFailed, match="at the same time"):
        create_testnet(out, 4, 1)
    assert len(files) > 10
    assert contents(out) == files
    assert list(tmp_path.iterdir()) == [out]


def contents(directory: Path) -> dict[Path, bytes]:
    """All files that are in their place."""
    files = (path for path in directory.rglob("*") if path.is_file() and PARTIAL not in str(path))
    return {path: path.read_bytes() for path in files}


def test_up_goes_on_with_the_testnet_that_another_made_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*arguments: object) -> None:
        monkeypatch.undo()
        open_or_create(tmp_path / "net", 4)
        testnet_module._write_configuration(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(testnet_module, "_write_configuration", overtaken)
    cluster = open_or_create(tmp_path / "net", 4)
    assert cluster.replicas == [0, 1, 2, 3]
    for replica in cluster.replicas:
        key = load_key_pair(cluster.layout.replica_key_file(replica))
        genesis = parse_genesis(cluster.layout.genesis_file.read_bytes())
        assert key.public == genesis.replicas[replica]


def test_an_empty_directory_stays_the_one_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mounted volume, or where somebody's shell is."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o750)
    before = tmp_path.stat().st_ino
    layout = create_testnet(Path(), 4, 1)
    assert load_cluster_file(Path("cluster.toml")).genesis.samefile(layout.genesis_file)
    assert (tmp_path.stat().st_ino, mode(tmp_path)) == (before, 0o750)


def test_what_a_killed_command_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f"net{PARTIAL}0123").mkdir()
    (tmp_path / "net" / f"{PARTIAL}0123").mkdir(parents=True)
    create_testnet(tmp_path / "net", 4, 1)


def test_storage_is_initialised_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = create_testnet(tmp_path / "net", replicas=4, clients=1)
    arguments = ["storage", "init", "--config", str(layout.configuration_file(2))]
    assert run(arguments) == 0
    genesis = parse_genesis(layout.genesis_file.read_bytes())
    storage.open(layout.data_directory(2), genesis.cluster_id, 2).close()
    capsys.readouterr()
    assert run(arguments) == 1
    assert "not empty" in capsys.readouterr().err


def test_a_testnet_for_up_has_its_storage(tmp_path: Path) -> None:
    layout = create_testnet(tmp_path / "net", 4, 1, initialise_storage=True)
    genesis = parse_genesis(layout.genesis_file.read_bytes())
    for replica in range(4):
        storage.open(layout.data_directory(replica), genesis.cluster_id, replica).close()


def test_json_says_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "net")
    assert run(["testnet", "init", "--clients", "2", "--out", out, "-w", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"directory": out, "replicas": 4, "clients": 2}


@pytest.mark.parametrize("replicas", ["3", "32"])
def test_a_cluster_has_a_possible_size(tmp_path: Path, replicas: str) -> None:
    out = str(tmp_path / "net")
    assert run(["testnet", "init", "--replicas", replicas, "--out", out]) == 2


def test_ports_follow_from_the_base_port() -> None:
    ports = choose_ports(4, 7000)
    assert [(one.client, one.peer, one.admin) for one in ports] == [
        (7000 + 3 * i, 7001 + 3 * i, 7002 + 3 * i) for i in range(4)
    ]
    with pytest.raises(CommandFailed, match="do not fit"):
        choose_ports(4, 65_530)


def test_free_ports_are_free_and_out_of_the_way_of_outgoing_connections() -> None:
    ports = choose_ports(4, None)
    flat = [port for one in ports for port in (one.client, one.peer, one.admin)]
    assert len(set(flat)) == 4 * PORTS_PER_REPLICA
    assert max(flat) < 32_768
    for port in flat:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((HOST, port))


def test_a_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((HOST, 0))
        taken = listener.getsockname()[1]
        assert not testnet_module._all_free(range(taken, taken + 1))
    assert testnet_module._all_free(range(taken, taken + 1))
    monkeypatch.setattr(testnet_module, "_all_free", lambda ports: False)
    with pytest.raises(CommandFailed, match="--base-port"):
        choose_ports(4, None)


def test_the_default_256_clients_are_made_at_once(tmp_path: Path) -> None:
    begin = time.process_time()
    layout = create_testnet(tmp_path / "net", replicas=4)
    assert time.process_time() - begin < 10
    assert len(list(layout.clients_directory.glob("*.key"))) == 256
    assert len(list(layout.clients_directory.glob("*.pem"))) == 256
