"""What ONNX Runtime really computes on a CPU without VNNI: runs small models on an emulated Haswell (AVX2).

    python -m benchmarks.saturation_oracle [--emulator qemu-x86_64-static] [--cpu Haswell]

Records the outputs of ``tests/quantization/saturation_cases.py`` in ``tests/quantization/goldens/haswell.npz``, which
the tests compare the simulation with, bit for bit. Needs the Debian package ``qemu-user-static`` (QEMU 7.2 or above).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tests.quantization.saturation_cases import CASES

GOLDEN = Path(__file__).parents[1] / "tests" / "quantization" / "goldens" / "haswell.npz"


def record(output: Path) -> None:
    """Runs all cases on the CPU that this process sees."""
    found: dict[str, np.ndarray] = {}
    for make in CASES:
        case = make()
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found[case.name] = session.run(None, case.feeds)[0]
    output.parent.mkdir(exist_ok=True)
    np.savez_compressed(output, **found)


def main() -> None:
    """Records on the emulated CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", default="qemu-x86_64-static")
    parser.add_argument("--cpu", default="Haswell")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        record(GOLDEN)
        return
    command = [given.emulator, "-cpu", given.cpu, sys.executable, "-m", "benchmarks.saturation_oracle", "--here"]
    subprocess.run(command, check=True)
    print(f"{GOLDEN}: {len(np.load(GOLDEN).files)} outputs of ONNX Runtime {ort.__version__} on {given.cpu}")


if __name__ == "__main__":
    main()
