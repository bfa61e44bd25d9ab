"""One peer quantizes one model, in the peer's own environment.

    .venv-peer-PEER/bin/python -m benchmarks.peers.run PEER CONFIG MODEL DATA OUT

The last line of stdout is what it did (JSON); an error is the last line of stderr, exit code 1. `OUT` is one file:
weights that the peer wrote beside it are taken in.
"""

import importlib
import json
import sys
import tempfile
from contextlib import chdir
from pathlib import Path


def main(peer: str, config: str, *paths: str) -> int:
    """Let the peer write its model."""
    model, data, output = (Path(path).resolve() for path in paths)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    quantize = importlib.import_module(f"benchmarks.peers.{peer}.quantize").quantize
    try:
        with tempfile.TemporaryDirectory(prefix="int8-peer-") as name, chdir(name):  # some leave files where they run
            folder = Path(name)
            (folder / "out").mkdir()
            done = quantize(config, model, data, folder / "out" / "model.onnx", folder)
            _one_file(folder / "out", output)
    except BaseException as error:  # a peer may raise anything, SystemExit too; the parent reads the last line
        message = " ".join(str(error).split())[:300]
        print(f"{type(error).__name__}: {message}", file=sys.stderr)
        return 1
    print(json.dumps(done))
    return 0


def _one_file(folder: Path, output: Path) -> None:
    written = folder / "model.onnx"
    if not written.exists():
        raise FileNotFoundError("it returned without an error and without a model")
    if len(list(folder.iterdir())) == 1:
        output.write_bytes(written.read_bytes())
        return
    import onnx

    onnx.save(onnx.load(written), output)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
