"""Key files: round trip, modes, and errors that say what to do."""

import os
import stat
from pathlib import Path

import pytest

from pbft.crypto.keys import (
    KeyPair,
    generate_key_pair,
    key_pair_from_seed,
    load_key_pair,
    make_private_directory,
    save_key_pair,
)
from pbft.errors import ConfigurationError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "secrets" / "replica.key"
    save_key_pair(path, key_pair_from_seed(b"\x07" * 32))
    return path


def test_the_key_of_a_known_seed() -> None:
    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key_pair_from_seed(seed).public.hex() == public


def test_a_key_survives_its_file(saved: Path) -> None:
    assert load_key_pair(saved) == key_pair_from_seed(b"\x07" * 32)


def test_generated_keys_differ_and_stay_out_of_their_repr() -> None:
    first, second = generate_key_pair(), generate_key_pair()
    assert first.public != second.public
    assert first.seed.hex() not in repr(first)
    assert repr(first.seed) not in repr(first)


def test_files_and_directories_are_private(saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert stat.S_IMODE(saved.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_a_file_that_others_may_use_is_refused(saved: Path, mode: int) -> None:
    saved.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_key_pair(saved)


def test_a_read_only_file_is_fine(saved: Path) -> None:
    saved.chmod(0o400)
    assert load_key_pair(saved).seed == b"\x07" * 32


@pytest.mark.parametrize("mode", [0o500, 0o750, 0o705, 0o755, 0o711, 0o1777])
def test_a_private_file_may_lie_where_others_can_look_but_not_replace_it(
    saved: Path, mode: int
) -> None:
    saved.parent.chmod(mode)
    try:
        assert load_key_pair(saved).seed == b"\x07" * 32
    finally:
        saved.parent.chmod(0o700)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o770, 0o777])
def test_a_directory_in_which_others_may_replace_the_file_is_refused(
    saved: Path, mode: int
) -> None:
    """Without a word on how to change it: it may be anybody's."""
    saved.parent.chmod(mode)
    try:
        with pytest.raises(ConfigurationError, match="may replace the key file") as refused:
            load_key_pair(saved)
    finally:
        saved.parent.chmod(0o700)
    assert f"{saved.parent} has mode {mode:04o}" in str(refused.value)
    assert "chmod" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o755, 0o711])
def test_keys_are_written_only_where_others_may_not_look(saved: Path, mode: int) -> None:
    saved.parent.chmod(mode)
    try:
        with pytest.raises(ConfigurationError, match="chmod 700"):
            make_private_directory(saved.parent)
    finally:
        saved.parent.chmod(0o700)


def test_a_wide_umask_does_not_widen(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save_key_pair(tmp_path / "new" / "client.key", generate_key_pair())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "client.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_key_is_never_overwritten(saved: Path) -> None:
    with pytest.raises(ConfigurationError, match="not overwritten"):
        save_key_pair(saved, generate_key_pair())
    assert load_key_pair(saved).seed == b"\x07" * 32


@pytest.mark.parametrize(
    "content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 32, b"00" * 32 + b"\n\n\n00"]
)
def test_what_is_no_key(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    with pytest.raises(ConfigurationError, match="not a key file"):
        load_key_pair(saved)


def test_what_is_not_there(tmp_path: Path, saved: Path) -> None:
    saved.parent.chmod(0o755)
    for missing in (saved.parent / "missing.key", tmp_path / "missing" / "missing.key"):
        said = f"^cannot read the key file {missing}: No such file or directory$"
        with pytest.raises(ConfigurationError, match=said):
            load_key_pair(missing)
    with pytest.raises(ConfigurationError, match="cannot read the key file"):
        load_key_pair(saved / "below")
    with pytest.raises(ConfigurationError, match="cannot make the directory"):
        save_key_pair(saved / "below" / "replica.key", generate_key_pair())


def test_a_file_that_cannot_be_written(saved: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write the key file"):
        save_key_pair(saved.parent / ("x" * 300), generate_key_pair())


def test_a_pair_has_two_halves_of_32_bytes() -> None:
    for seed, public in ((b"x" * 31, b"y" * 32), (b"x" * 32, b"y" * 33)):
        with pytest.raises(ValueError, match="32-byte"):
            KeyPair(seed, public)
