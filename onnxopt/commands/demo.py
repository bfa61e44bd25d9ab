"""``demo``: the whole path on the digit classifier that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from onnxopt.commands.bench import bench
from onnxopt.commands.common import Source, check_output, workspace
from onnxopt.commands.compare import compare
from onnxopt.commands.quantize import quantize
from onnxopt.core.io import load, save
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import Report, Status
from onnxopt.errors import InputError
from onnxopt.run.target import Target

__all__ = ["demo", "demo_folder"]


def demo(output: Path | None = None, *, target: Target | None = None, progress: Progress | None = None) -> Report:
    """Quantizes the digit classifier on its calibration images, compares on its 1,000 test images, measures.

    Args:
        output: Keep the INT8 model here.
        target: Where it runs.
        progress: Told of each step.

    Raises:
        OnnxoptError: The demo's files are missing, or the output cannot be written.
    """
    folder, target, progress = demo_folder(), target or Target(), progress or SilentProgress()
    model, test = folder / "mnist_cnn.onnx", Source(str(folder / "test.npz"))
    if output is not None:
        check_output(output, model, *folder.iterdir())
    with workspace() as work:
        small = work / "mnist_cnn_int8.onnx"
        progress.note(f"1/3 onnxopt quantize {model.name} -o {small.name} --data calibration.npz --eval-data test.npz")
        made = quantize(
            model,
            small,
            Source(str(folder / "calibration.npz")),
            eval_data=test.path,
            target=target,
            progress=progress,
        )
        if made.verdict.status is not Status.PASS:
            return made
        progress.note(f"2/3 onnxopt compare {model.name} {small.name} --data test.npz")
        right = compare(model, small, test, max_drop=0.01, target=target, progress=progress)
        progress.note(f"3/3 onnxopt bench {model.name} {small.name} --data test.npz")
        fast = bench([model, small], test, target=target, progress=progress)
        if output is not None:
            save(load(small), output)
    worst = next((r for r in (right, fast) if r.verdict.status is not Status.PASS), made)
    return Report(
        "demo",
        worst.verdict,
        {"quantize": made.data["candidates"], "compare": right.data["comparison"], "bench": dict(fast.data)},
        (*(t for t in made.tables if t.title in ("Candidates", "Size")), *right.tables, *fast.tables),
        made.notes,
    )


def demo_folder() -> Path:
    """The folder of the demo's model and data: inside an installed package, beside it in a source tree.

    Raises:
        InputError: The installation is incomplete.
    """
    package = Path(str(files("onnxopt")))
    for folder in (package / "calibration_data" / "mnist", package.parent / "calibration_data" / "mnist"):
        if (folder / "mnist_cnn.onnx").is_file():
            return folder
    raise InputError("the demo's model is missing", where=str(package), fix="install onnxopt again from its wheel")
