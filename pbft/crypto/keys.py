"""Ed25519 key pairs and the files that hold them (protocol.md section 3, operations.md section 3).

A key file is one line: the 32-byte secret seed in hexadecimal. Whoever can read it can vote as its
owner, so a file that others may use is refused rather than warned about, and so is one in a
directory where others may put another in its place. Directories that are made here are private.
"""

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from nacl import bindings

from pbft.errors import ConfigurationError
from pbft.types import KEY_BYTES

SEED_BYTES = 32
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_FILE_BYTES_MAX = 2 * SEED_BYTES + 2


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A secret and its public key. The secret never shows in a repr."""

    seed: bytes = field(repr=False)
    """32 secret bytes."""
    public: bytes
    """32 bytes: the identity."""

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES or len(self.public) != KEY_BYTES:
            raise ValueError("a key pair is a 32-byte seed and a 32-byte public key")


def key_pair_from_seed(seed: bytes) -> KeyPair:
    """The Ed25519 key pair of a 32-byte seed."""
    public, _ = bindings.crypto_sign_seed_keypair(seed)
    return KeyPair(seed, public)


def generate_key_pair() -> KeyPair:
    """A fresh Ed25519 key pair from the operating system's random source."""
    return key_pair_from_seed(secrets.token_bytes(SEED_BYTES))


def make_private_directory(path: Path) -> None:
    """Makes the directory with mode 0700 if it is not there.

    Raises ConfigurationError if it is there with a wider mode, or cannot be made.
    """
    try:
        path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the directory {path}: {error.strerror}") from error
    require_private_directory(path)


def require_private_directory(path: Path) -> None:
    """Raises ConfigurationError unless `path` is a directory that only its owner may use."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"cannot use the directory {path}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ConfigurationError(f"{path} is not a directory")
    if mode & _OTHERS:
        raise ConfigurationError(
            f"the directory {path} has mode {stat.S_IMODE(mode):04o}: others may use it; "
            f"run: chmod 700 {path}"
        )


def write_private_file(path: Path, data: bytes) -> None:
    """Writes a new file with mode 0600, and its directory with mode 0700 if it is not there.

    Raises ConfigurationError if the file exists (a key is never overwritten), if the directory is
    open to others, or if writing fails.
    """
    make_private_directory(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise ConfigurationError(f"the key file {path} exists; it is not overwritten") from error
    except OSError as error:
        raise ConfigurationError(f"cannot write the key file {path}: {error.strerror}") from error


def read_private_file(path: Path, bytes_max: int) -> bytes:
    """The first `bytes_max` bytes of a file with secrets.

    Raises ConfigurationError if it cannot be read, is open to others, or lies in a directory in
    which others may replace it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(bytes_max)
        directory_mode = path.parent.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & _OTHERS:
        raise ConfigurationError(
            f"the key file {path} has mode {stat.S_IMODE(mode):04o}: others may read it; "
            f"run: chmod 600 {path} (and replace the key if it was exposed)"
        )
    # In a sticky directory, such as /tmp, nobody replaces what belongs to somebody else.
    if directory_mode & _OTHERS_WRITE and not directory_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"the directory {path.parent} has mode {stat.S_IMODE(directory_mode):04o}: others may "
            f"replace the key file {path}; keep it in a directory that only its owner may change"
        )
    return data


def save_key_pair(path: Path, key_pair: KeyPair) -> None:
    """Writes a new key file. Raises ConfigurationError as `write_private_file`."""
    write_private_file(path, key_pair.seed.hex().encode() + b"\n")


def load_key_pair(path: Path) -> KeyPair:
    """Reads a key file.

    Raises ConfigurationError as `read_private_file`, or if it is not 64 hexadecimal digits.
    """
    text = read_private_file(path, _FILE_BYTES_MAX + 1)
    try:
        seed = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        seed = b""
    if len(text) > _FILE_BYTES_MAX or len(seed) != SEED_BYTES:
        raise ConfigurationError(
            f"{path} is not a key file: it must hold {2 * SEED_BYTES} hexadecimal digits"
        )
    return key_pair_from_seed(seed)
