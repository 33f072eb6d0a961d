"""The image, and what its containers may do."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pbft.crypto.keys import key_pair_from_seed
from pbft.genesis import parse_genesis
from tests.compose.stack import (
    BUILD,
    BUILD_SECONDS,
    CLASSIC_BUILDER,
    HEALTHY_SECONDS,
    REPLICAS,
    Stack,
    docker,
    execute,
)

pytestmark = pytest.mark.timeout(1_500)

USER = "10001:10001"


def test_a_changed_source_file_does_not_install_the_dependencies_again(
    checkout: Path, image: str
) -> None:
    source = checkout / "pbft" / "__init__.py"
    kept = source.read_text()
    source.write_text(kept + "# changed\n")
    changed = f"{image}-changed"
    environment = {**os.environ, **CLASSIC_BUILDER, "PBFT_IMAGE": changed}
    try:
        output = execute(BUILD, BUILD_SECONDS, cwd=checkout, env=environment).stdout
        steps = {step.partition("\n")[0]: step for step in output.split("Step ")}
        (install,) = [steps[name] for name in steps if "pip install --no-cache-dir -c" in name]
        (copy,) = [steps[name] for name in steps if name.endswith("COPY pbft pbft")]
        assert "Using cache" in install
        assert "Using cache" not in copy
    finally:
        source.write_text(kept)
        execute(["docker", "rmi", "--force", changed])


def test_every_profile_is_valid_and_mounts_what_is_there(checkout: Path) -> None:
    command = ["docker-compose", "--profile", "client", "--profile", "monitoring", "config"]
    text = execute(command, cwd=checkout).stdout
    mounted = [Path(part) for part in re.findall(rf"{checkout}/[^:\s]+(?=:/)", text)]
    assert len(mounted) == 3
    for path in mounted:
        assert any(path.iterdir()), f"{path} is empty"


def test_the_image_holds_what_runs_and_no_tools_to_change_it(image: str) -> None:
    (document,) = json.loads(docker("image", "inspect", image))
    assert document["Config"]["User"] == USER
    assert document["Config"]["Healthcheck"]["Test"][0] == "CMD"
    shell = 'pip --version || python3 -m pytest --version || find / -xdev -name "*.key"'
    found = docker("run", "--rm", image, "sh", "-c", f"({shell}) 2>/dev/null || true")
    assert found == ""
    assert docker("run", "--rm", image, "pbft", "--version").startswith("pbft, version")


def test_each_replica_has_its_own_key_and_no_rights(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-build")
    print(f"healthy after {stack.wait_until_healthy():.0f} s")
    for replica in REPLICAS:
        check_privileges(stack.inspect(replica), stack)
        check_files(stack, replica)
    (peer,) = json.loads(docker("network", "inspect", f"{stack.project}_peer"))
    assert peer["Internal"] is True
    assert len(peer["Containers"]) == len(REPLICAS)


def check_privileges(container: dict[str, Any], stack: Stack) -> None:
    """What Docker grants."""
    limits = container["HostConfig"]
    assert container["Config"]["User"] == USER
    assert limits["ReadonlyRootfs"] is True
    assert limits["CapDrop"] == ["ALL"] and not limits["CapAdd"]
    assert "no-new-privileges:true" in limits["SecurityOpt"]
    assert 0 < limits["Memory"] <= 1 << 30
    assert limits["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}
    published = [one for ports in limits["PortBindings"].values() for one in ports]
    assert {one["HostIp"] for one in published} == {stack.address}
    assert len(published) == 2


def check_files(stack: Stack, replica: int) -> None:
    """What the replica finds in its volume, and what it can change."""

    def inside(script: str) -> str:
        return docker("exec", stack.container(replica), "sh", "-c", script)

    home = "/var/lib/pbft"
    assert inside("id -u; id -g").split() == USER.split(":")
    secrets = inside(f"find {home} -name '*.key' -o -name '*.pem' ! -name authority.pem")
    key, certificate = sorted(secrets.split())
    assert Path(certificate) == Path(home, f"replica{replica}", "replica.pem")
    genesis = parse_genesis(inside(f"cat {home}/genesis.toml").encode() + b"\n")
    own = key_pair_from_seed(bytes.fromhex(inside(f"cat {key}"))).public
    assert own == genesis.replicas[replica]
    for place in (home, "/opt/pbft", "/tmp", "/etc"):
        assert inside(f"touch {place}/x 2>/dev/null || echo refused") == "refused"
    assert inside(f"touch {home}/replica{replica}/x && echo allowed") == "allowed"


def test_a_lost_volume_is_not_made_again(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-build")
    stack.wait_until_healthy()
    stack.compose("down")
    docker("volume", "rm", f"{stack.project}_replica1")
    stack.compose("up", "--detach", "--no-build")
    told = stack.compose("logs", "--no-color", "init")
    assert "replica 1 has lost its volume" in told
    put = ["run", "--rm", "client", "pbft", "kv", "put", "--timeout", str(HEALTHY_SECONDS)]
    stack.compose(*put, "greeting", "hello")
    assert "pbft testnet init" in docker_logs(stack.container(1))


def docker_logs(container: str) -> str:
    """Both streams of a container's log."""
    done = execute(["docker", "logs", container])
    return done.stdout + done.stderr
