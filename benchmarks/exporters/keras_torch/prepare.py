"""The models of ``benchmarks.exporters.keras``, trained on torch: ``python -m ... FOLDER``."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"
from benchmarks.exporters.keras.prepare import main

if __name__ == "__main__":
    main(Path(sys.argv[1]))
