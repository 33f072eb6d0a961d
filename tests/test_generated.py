"""The committed stubs are what the compiler makes of the protos today, no more and no less."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIRE = ROOT / "pbft" / "wire"


def test_the_committed_stubs_are_fresh(tmp_path: Path) -> None:
    protos = sorted(ROOT.glob("proto/pbft/wire/*.proto"))
    assert protos
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT / 'proto'}",
            f"--python_out={tmp_path}",
            f"--pyi_out={tmp_path}",
            f"--grpc_python_out={tmp_path}",
            *map(str, protos),
        ],
        check=True,
        timeout=60,
    )
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "pbft" / "wire").iterdir()}
    committed = {
        path.name: path.read_bytes()
        for path in WIRE.iterdir()
        if path.is_file() and path.name != "__init__.py"
    }
    assert sorted(committed) == sorted(fresh)
    stale = [name for name in fresh if committed[name] != fresh[name]]
    assert not stale, f"run make protos: {stale}"
