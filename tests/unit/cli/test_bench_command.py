"""What the bench says when it cannot measure."""

from pathlib import Path

import pytest

from pbft.cli import exit_codes
from pbft.cli.bench import bench_keys
from pbft.cli.failure import CommandFailed
from pbft.cli.layout import BENCH_CLIENTS_START, COMMAND_CLIENT, MAIN_JOB_CLIENTS
from pbft.cli.main import run
from pbft.cli.testnet import create_testnet


def test_ranges_of_client_keys_are_apart() -> None:
    assert COMMAND_CLIENT not in MAIN_JOB_CLIENTS
    assert max(MAIN_JOB_CLIENTS) < BENCH_CLIENTS_START


def test_too_few_client_keys_are_named(tmp_path: Path) -> None:
    layout = create_testnet(tmp_path / "net", 4, clients=BENCH_CLIENTS_START + 2)
    keys = bench_keys(layout.cluster_file, 2)
    assert keys == [layout.client_key_file(BENCH_CLIENTS_START + i) for i in range(2)]
    with pytest.raises(CommandFailed, match="testnet init --clients 19"):
        bench_keys(layout.cluster_file, 3)


def test_a_cluster_that_is_down_is_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = create_testnet(tmp_path / "net", 4, clients=1)
    place = ["--cluster", str(layout.cluster_file)]
    code = run(["kv", "get", "key", "--timeout", "0.5", *place])
    captured = capsys.readouterr()
    assert code == exit_codes.TOO_FEW_REPLICAS
    assert captured.out == ""
    assert "0 of 4 answered" in captured.err
    assert run(["cluster", "status", *place]) == exit_codes.TOO_FEW_REPLICAS
