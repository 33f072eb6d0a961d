"""One docker-compose stack of a test: a fresh copy of the checkout, under a project name and an
address that nothing else uses, and no trace of it afterwards.
"""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPLICAS = range(4)
COMMAND_SECONDS = 180
BUILD_SECONDS = 1_200
HEALTHY_SECONDS = 60
IMAGES = "label=org.opencontainers.image.title=pbft"


def execute(
    command: list[str], seconds: float = COMMAND_SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and returns its output. Raises AssertionError, showing what it
    wrote, if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def docker(*arguments: str) -> str:
    """Output of a docker command, without the last newline."""
    return execute(["docker", *arguments]).stdout.strip()


def copy_checkout(directory: Path) -> None:
    """What a fresh clone would hold, and the virtual environment of this checkout."""
    listing = execute(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(ROOT / ".venv")


@contextmanager
def built_image(directory: Path) -> Iterator[str]:
    """The image, built by the commands that users type; what the build left goes at the end."""
    image = f"pbft-test:{secrets.token_hex(4)}"
    before = set(docker("images", "--all", "--quiet", "--filter", IMAGES).split())
    environment = {**os.environ, "PBFT_IMAGE": image, **CLASSIC_BUILDER}
    try:
        execute(["deploy/base-image"], BUILD_SECONDS, cwd=directory)
        execute(BUILD, BUILD_SECONDS, cwd=directory, env=environment)
        yield image
    finally:
        subprocess.run(["docker", "rmi", "--force", image], capture_output=True, check=False)
        dangling = docker("images", "--quiet", "--filter", IMAGES, "--filter", "dangling=true")
        for left in sorted(set(dangling.split()) - before):
            subprocess.run(["docker", "rmi", left], capture_output=True, check=False)


BUILD = ["docker-compose", "build", "--force-rm"]
"""As users build, but a build that fails leaves no container."""
CLASSIC_BUILDER = {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
"""BuildKit is not everywhere: what builds without it builds with it."""


@dataclass
class Stack:
    """The stack as a user sees it, from the directory of the copy."""

    directory: Path
    image: str
    project: str = field(default_factory=lambda: f"pbfttest{secrets.token_hex(4)}")
    address: str = field(
        default_factory=lambda: f"127.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}.2"
    )

    @property
    def environment(self) -> dict[str, str]:
        """For every command that concerns this stack."""
        return {
            **os.environ,
            **CLASSIC_BUILDER,
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "",
            "PBFT_IMAGE": self.image,
            "PBFT_PUBLISH_ADDRESS": self.address,
            "PBFT_TIMEOUT": str(HEALTHY_SECONDS),
        }

    @property
    def cluster_file(self) -> Path:
        """The cluster file of the host, where the walk-through puts it."""
        return self.directory / ".pbft-compose" / "cluster.toml"

    def script(self, text: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs lines of shell as they stand; the first that fails ends them."""
        command = ["bash", "-euo", "pipefail", "-x", "-c", text]
        return execute(command, 900, cwd=self.directory, env=self.environment, **options)

    def compose(self, *arguments: str) -> str:
        """Runs docker-compose and returns what it printed."""
        command = ["docker-compose", *arguments]
        return execute(command, cwd=self.directory, env=self.environment).stdout

    def pbft(self, *arguments: str) -> str:
        """Runs the host's `pbft` on this cluster and returns its output."""
        environment = {**self.environment, "PBFT_CLUSTER": str(self.cluster_file)}
        command = [str(ROOT / ".venv" / "bin" / "pbft"), *arguments]
        return execute(command, cwd=self.directory, env=environment).stdout

    def container(self, replica: int) -> str:
        """The id of a replica's container, running or not."""
        every = ["ps", "--all", "--quiet"]
        labels = [f"project={self.project}", f"service=replica{replica}", "oneoff=False"]
        filters = [
            part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}")
        ]
        return docker(*every, *filters)

    def inspect(self, replica: int) -> dict[str, Any]:
        """What Docker knows about a replica's container."""
        (document,) = json.loads(docker("inspect", self.container(replica)))
        assert isinstance(document, dict)
        return document

    def is_running(self, replica: int) -> bool:
        """Whether the container runs; a paused one does."""
        return bool(self.inspect(replica)["State"]["Running"])

    def wait_until_healthy(self, seconds: float = HEALTHY_SECONDS) -> float:
        """Waits for the health checks of all replicas; returns how long it took."""
        begin = time.monotonic()
        while True:
            health = [self.inspect(replica)["State"]["Health"] for replica in REPLICAS]
            if all(one["Status"] == "healthy" for one in health):
                return time.monotonic() - begin
            assert time.monotonic() < begin + seconds, health
            time.sleep(0.5)

    def remove(self) -> None:
        """Takes away all that the stack made. Raises AssertionError if anything is left."""
        environment = {**self.environment, "COMPOSE_PROFILES": "client,monitoring"}
        down = ["docker-compose", "down", "--volumes", "--remove-orphans", "--timeout", "5"]
        subprocess.run(down, cwd=self.directory, env=environment, capture_output=True, check=False)
        label = f"label=com.docker.compose.project={self.project}"
        for container in docker("ps", "--all", "--quiet", "--filter", label).split():
            docker("rm", "--force", "--volumes", container)
        for kind in ("network", "volume"):
            for name in docker(kind, "ls", "--quiet", "--filter", label).split():
                docker(kind, "rm", name)
        for kind in ("container", "network", "volume"):
            assert docker(kind, "ls", "--quiet", "--filter", label) == ""
