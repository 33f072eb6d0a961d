"""How data is shown, and what is refused before anything is sent."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pbft.cli import exit_codes
from pbft.cli.admin import ANSWER_BYTES_MAX, ReplicaStatus
from pbft.cli.cluster import digests_differ
from pbft.cli.failure import CommandFailed
from pbft.cli.fault import _answer
from pbft.cli.kv import _document, _shown
from pbft.cli.main import run
from pbft.cli.output import print_table, show
from pbft_client.cluster_file import ClusterFile, ReplicaAddresses, dump_cluster_file
from pbft_client.results import KeyValue


def pair(key: bytes, value: bytes) -> KeyValue:
    return KeyValue(key, value, create_revision=2, mod_revision=3, version=1)


def test_text_is_text_and_bytes_are_base64() -> None:
    assert _document(pair("schlüssel".encode(), b"v")) == {
        "key": "schlüssel",
        "value": "v",
        "version": 1,
        "create_revision": 2,
        "mod_revision": 3,
    }
    odd = _document(pair(b"k", b"\xff\x00"))
    assert odd["value_base64"] == "/wA="
    assert "value" not in odd


def test_a_table_never_sends_control_characters_to_a_terminal() -> None:
    assert _shown("grüß".encode()) == "grüß"
    assert _shown(b"\x1b[2J\n\xff") == "\\x1b[2J\\n\\xff"


def test_cells() -> None:
    assert [show(cell) for cell in (None, True, False, [], ["a", 1], 2.5)] == [
        "-",
        "yes",
        "no",
        "-",
        "a, 1",
        "2.5",
    ]


def test_in_a_pipe_each_record_is_a_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    long = "y" * 200_000
    print_table(["key", "value", "n"], [["k", long, 1], ["wide 字", None, 22]])
    print_table(["key", "value", "n"], [["k", "v", True]], header=False)
    assert capsys.readouterr().out.split("\n") == [
        "key      value" + 95 * " " + "  n",
        f"k        {long}  1",
        "wide 字  -" + 99 * " " + "  22",
        "k    v      yes",
        "",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["kv", "cas", "key", "value"],
        ["kv", "cas", "key", "value", "--expect", "x", "--expect-absent"],
        ["kv", "get", "key", "--consistency", "none"],
        ["kv", "range", "--limit", "-1"],
        ["kv", "range", "--limit", "99999999999999999999"],
        ["kv", "get", "key", "--timeout", "0"],
        ["kv", "get", "key", "--timeout", "inf"],
        ["kv", "get", "key", "--timeout", "nan"],
        ["kv", "get", "key", "--timeout", "1e303"],
        ["bench", "--duration", "0"],
        ["bench", "--duration", "inf"],
        ["bench", "--duration", "nan"],
        ["bench", "--in-flight", "1", "--clients", "2"],
        ["sim", "--seeds", "5..5"],
        ["sim", "--seeds", "5"],
        ["sim", "--seeds", "0..99999999999999999999"],
        ["sim", "--seed", "1", "--seeds", "1..2"],
        ["sim", "--replicas", "3"],
        ["sim", "--replicas", "4,,5"],
        ["sim", "--replicas", "4" * 5_000],
        ["sim", "--seeds", "1..3", "--trace"],
    ],
)
def test_impossible_wishes_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == exit_codes.USAGE
    assert capsys.readouterr().out == ""


def test_sim_tells_one_run_twice_alike(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sim", "--seed", "3", "--faults", "none", "-w", "json"]
    documents = []
    for more in ([], ["--trace"]):
        assert run([*arguments, *more]) == exit_codes.OK
        captured = capsys.readouterr()
        documents.append(json.loads(captured.out))
    assert captured.err.count("\n") > 100
    assert documents[0]["trace_hash"] == documents[1]["trace_hash"]
    assert documents[0]["runs"] == 1
    assert documents[0]["requests"] >= 100
    assert documents[0]["violations"] == []
    assert set(documents[0]) >= {"events", "counters", "seconds"}


def test_sim_names_an_unknown_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seed", "1", "--faults", "no-such-fault"]) == exit_codes.ERROR
    assert "no-such-fault" in capsys.readouterr().err


class Admins:
    """Stand-ins for the admin listeners of four replicas. A status that is bytes is sent as it
    is."""

    def __init__(self, directory: Path) -> None:
        self.statuses: dict[int, Any] = {i: {"replica": i} for i in range(4)}
        self.ready = {0, 1, 2, 3}
        self.servers = [self._serve(replica) for replica in range(4)]
        self.cluster_file = directory / "cluster.toml"
        addresses = tuple(
            ReplicaAddresses(client="127.0.0.1:1", admin=f"127.0.0.1:{server.server_port}")
            for server in self.servers
        )
        cluster = ClusterFile(directory / "genesis.toml", addresses, insecure=True)
        self.cluster_file.write_text(dump_cluster_file(cluster, directory))

    def _serve(self, replica: int) -> HTTPServer:
        admins = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fit = self.path != "/readyz" or replica in admins.ready
                status = admins.statuses[replica]
                body = status if isinstance(status, bytes) else json.dumps(status).encode()
                self.send_response(200 if fit else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def admins(tmp_path: Path) -> Iterator[Admins]:
    made = Admins(tmp_path)
    yield made
    made.close()


def run_json(
    arguments: list[str], admins: Admins, capsys: pytest.CaptureFixture[str]
) -> tuple[int, Any]:
    code = run([*arguments, "--cluster", str(admins.cluster_file), "-w", "json"])
    return code, json.loads(capsys.readouterr().out)


def test_status_has_its_fixed_fields(admins: Admins, capsys: pytest.CaptureFixture[str]) -> None:
    admins.statuses[0] = {
        "replica": 0,
        "view": 3,
        "role": "backup",
        "mode": "normal",
        "low_water_mark": 64,
        "executed": 70,
        "state_digest": "ab",
        "state_digest_sequence": 64,
        "faults": ["silent"],
        "something_new": 1,
    }
    code, rows = run_json(["cluster", "status"], admins, capsys)
    assert code == exit_codes.OK
    assert rows[0] == {
        "replica": 0,
        "reachable": True,
        "role": "backup",
        "view": 3,
        "mode": "normal",
        "low_water_mark": 64,
        "executed": 70,
        "state_digest": "ab",
        "faults": ["silent"],
        "state_digest_sequence": 64,
    }


@pytest.mark.parametrize(
    "nonsense",
    [[], {"replica": 9}, "x", {"view": 1}, b"[" * 200_000, b"\xff", b" " * ANSWER_BYTES_MAX + b"1"],
)
def test_who_answers_nonsense_is_not_reachable(
    admins: Admins, capsys: pytest.CaptureFixture[str], nonsense: object
) -> None:
    admins.statuses[1] = nonsense
    code, rows = run_json(["cluster", "status"], admins, capsys)
    assert code == exit_codes.OK
    assert [row["reachable"] for row in rows] == [True, False, True, True]
    assert rows[1]["view"] is None


def test_fields_of_a_wrong_type_are_missing(
    admins: Admins, capsys: pytest.CaptureFixture[str]
) -> None:
    admins.statuses[2] = {"replica": 2, "view": "high", "executed": 10**4_000, "faults": 1}
    _, rows = run_json(["cluster", "status"], admins, capsys)
    assert (rows[2]["reachable"], rows[2]["view"], rows[2]["faults"]) == (True, None, None)
    assert rows[2]["executed"] is None


NESTED = b'{"replica": 2, "faults": %s"silent"%s}' % (b"[" * 400, b"]" * 400)
"""Not so deep that it could not be read, but too deep to be walked through."""


@pytest.mark.parametrize(
    "status",
    [
        NESTED,
        {"replica": 2, "role": "prim\x1b]0;owned\x07\x1b[2Jary\n\ud800", "faults": ["\x1b[2J"]},
        {"replica": 2, "state_digest": "\x1b[2J", "state_digest_sequence": 1, "mode": "x" * 9_999},
    ],
)
@pytest.mark.parametrize("command", ["status", "hash"])
def test_no_replica_commands_the_terminal(
    admins: Admins, capsys: pytest.CaptureFixture[str], command: str, status: object
) -> None:
    admins.statuses[2] = status
    assert run(["cluster", command, "--cluster", str(admins.cluster_file)]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert all(one.isprintable() for one in shown.splitlines())
    assert len(shown) < 2_000
    assert len(shown.splitlines()) == 5


def test_who_reports_odd_faults_is_shown_without_harm(
    admins: Admins, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {"behaviour": "\x1b[2J", "options": {"\x1bms": 5, "share": "1\x07"}, "acted": -1}
    admins.statuses[0] = {"replica": 0, "allowed": True, "faults": [odd, 7]}
    admins.statuses[1] = []
    admins.statuses[2] = b"[" * 200_000
    code, document = run_json(["fault", "list"], admins, capsys)
    assert code == exit_codes.OK
    options = {"ms": None, "share": "1"}
    shown = {"behaviour": "[2J", "options": options, "when": None, "acted": None}
    assert document["replicas"] == [
        {"replica": 0, "allowed": True, "faults": [shown]},
        {"replica": 3, "allowed": False, "faults": []},
    ]
    assert run(["fault", "list", "--cluster", str(admins.cluster_file)]) == exit_codes.OK
    captured = capsys.readouterr()
    assert all(one.isprintable() for one in captured.out.splitlines())
    assert captured.err.startswith("replica 1: HTTP status 200\nreplica 2: HTTP status 200\n")


def test_the_reason_of_a_refusal_is_made_printable() -> None:
    body = json.dumps({"error": "no\x1b[2J" + "x" * 9_999}).encode()
    with pytest.raises(CommandFailed, match=r"^replica 3: no\[2Jx+$") as caught:
        _answer(3, 400, body)
    assert len(str(caught.value)) < 1_100


def test_health_needs_a_quorum_of_ready_replicas(
    admins: Admins, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = run_json(["cluster", "health"], admins, capsys)
    assert (code, [row["ready"] for row in rows]) == (exit_codes.OK, [True] * 4)
    admins.ready = {0, 2}
    code, rows = run_json(["cluster", "health"], admins, capsys)
    assert code == exit_codes.TOO_FEW_REPLICAS
    assert [row["ready"] for row in rows] == [True, False, True, False]
    assert [row["live"] for row in rows] == [True] * 4


def test_members_of_another_genesis_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "net", tmp_path / "net" / "cluster.toml"
    assert run(["testnet", "init", "--out", str(out), "--clients", "1"]) == exit_codes.OK
    assert run(["cluster", "members", "--cluster", str(file)]) == exit_codes.OK
    one_more = '\n[[replicas]]\nclient = "127.0.0.1:1"\n'
    file.write_text(file.read_text(encoding="utf-8") + one_more, encoding="utf-8")
    capsys.readouterr()
    assert run(["cluster", "members", "--cluster", str(file)]) == exit_codes.ERROR
    assert "has 5 replicas, the genesis 4" in capsys.readouterr().err


def test_hash_compares_digests_of_one_sequence(
    admins: Admins, capsys: pytest.CaptureFixture[str]
) -> None:
    for replica in range(4):
        behind = {"state_digest": "aa", "state_digest_sequence": 64}
        ahead = {"state_digest": "bb", "state_digest_sequence": 128}
        admins.statuses[replica] |= behind if replica == 3 else ahead
    assert run_json(["cluster", "hash"], admins, capsys)[0] == exit_codes.OK
    admins.statuses[1]["state_digest"] = "cc"
    assert run_json(["cluster", "hash"], admins, capsys)[0] == exit_codes.VERIFICATION_FAILED
    assert not digests_differ([ReplicaStatus(0, reachable=False), ReplicaStatus(1, reachable=True)])
