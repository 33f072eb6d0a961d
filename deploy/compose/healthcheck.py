"""The image's health check: exit code 0 if the replica of this container is ready.

It uses nothing but the standard library and asks its own replica only, so that it stays cheap: it
runs every few seconds. What it prints is kept by `docker inspect`.
"""

import os
import sys
import tomllib
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TIMEOUT_SECONDS = 3.0


def main() -> int:
    """Asks /readyz where PBFT_CONFIG says that the admin listener is."""
    configuration = tomllib.loads(Path(os.environ["PBFT_CONFIG"]).read_text())
    port = int(configuration["admin_address"].rpartition(":")[2])
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz?verbose")
        response = connection.getresponse()
        print(response.read().decode(), end="")
    except (OSError, HTTPException) as error:
        print(f"port {port} does not answer: {error!r}")
        return 1
    finally:
        connection.close()
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
