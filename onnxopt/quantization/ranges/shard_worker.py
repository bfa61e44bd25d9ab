"""``python -m onnxopt.quantization.ranges.shard_worker JOB``: calibrates one ``shards.Shard``, writes its answer."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from pathlib import Path

from onnxopt.core.io import load
from onnxopt.errors import OnnxoptError
from onnxopt.quantization.ranges.calibrate import calibrate
from onnxopt.quantization.ranges.shards import Answer, Shard


def main(job: Path) -> None:
    """Reads the job, tells each sample on stdout, writes the answer beside the job."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    shard: Shard = pickle.loads(job.read_bytes())
    folder = job.with_suffix(".work")
    folder.mkdir(exist_ok=True)
    try:
        answer: Answer = calibrate(
            load(shard.model),
            shard.names,
            shard.data,
            shard.target,
            folder,
            histograms=shard.histograms,
            advance=lambda steps: print(steps, flush=True),
        )
    except OnnxoptError as error:
        answer = (type(error).__name__, error.what, error.where, error.fix)
    job.with_suffix(".answer").write_bytes(pickle.dumps(answer))


def _end_with_parent() -> None:
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
