"""One peer prunes one model, in the peer's own environment.

    .venv-peer-PEER/bin/python -m benchmarks.pruners.run PEER CONFIG KIND RATIO MODEL DATA OUT

The last line of stdout is what it did (JSON); an error is the last line of stderr, exit code 1.
"""

import importlib
import json
import sys
from pathlib import Path


def main(peer: str, config: str, kind: str, ratio: str, *paths: str) -> int:
    """Let the peer write its model."""
    model, data, output = (Path(path).resolve() for path in paths)
    prune = importlib.import_module(f"benchmarks.pruners.{peer}").prune
    try:
        done = prune(config, kind, float(ratio), model, data, output)
    except BaseException as error:  # a peer may raise anything, SystemExit too; the parent reads the last line
        message = " ".join(str(error).split())[:300]
        print(f"{type(error).__name__}: {message}", file=sys.stderr)
        return 1
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
