"""``doctor``: what ONNX Runtime can do on this machine, and how well this machine can measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.commands.common import Source, as_json, workspace
from onnxopt.commands.doctor_data import examine_data
from onnxopt.core.io import load
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import input_specs
from onnxopt.core.report import JSON, Cell, Note, Report, Status, Table, Verdict
from onnxopt.errors import OnnxoptError, UsageError
from onnxopt.evaluate.made_up import made_up
from onnxopt.measurement.env import busy_share, environment, is_spinning, settle_spinning
from onnxopt.measurement.installation import available_mb, runtime_packages
from onnxopt.measurement.isa import int8_outlook
from onnxopt.measurement.paired import MARGIN, LatencyComparison, compare_latency
from onnxopt.measurement.probe import probe_feeds, write_probe
from onnxopt.measurement.stats import CLEAR_BY
from onnxopt.measurement.trial import Trial, installed_providers, try_provider
from onnxopt.run.session import Feeds
from onnxopt.run.target import PROVIDERS, Target, allowed_cores, cgroup_quota, cpu_flags

__all__ = ["doctor"]

PROCESSES = 3
GATE_PROCESSES = (5, 15)
"""How many a gate starts: at least, and at most."""
BUSY = 0.25
LITTLE_MEMORY_MB = 1024


@dataclass(frozen=True)
class Noise:
    """How much a model differs from itself.

    Attributes:
        model: Its name.
        spread: Standard deviation over processes of the ratio.
        finds: Smallest change that a gate finds 4 times in 5, with as few and with as many processes as it may start.
        comparison: The measurement.
    """

    model: str
    spread: float
    finds: tuple[float, float]
    comparison: LatencyComparison


def doctor(
    model: Path | None = None,
    source: Source | None = None,
    *,
    output_name: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """The providers that really run, the machine, and its noise floor; with a model, also where that runs.

    Args:
        model: A model to try as well, on made-up inputs; the noise floor is then its own.
        source: Data; whether the model can be calibrated on them is then what is examined, and nothing else.
        output_name: The output at which calibrators are judged; default: the first.
        threads: Intra-op threads; default: the cores allowed here.
        progress: Told of each step.

    Raises:
        UsageError: There are data without a model, or options about data without data.
        OnnxoptError: The file is no model, or the data cannot be used.
    """
    target, progress = Target(threads=threads or allowed_cores()), progress or SilentProgress()
    if source is not None and source.path is not None:
        if model is None:
            raise UsageError(
                "calibration data are examined for a model, and none is given",
                where=f"onnxopt doctor --data {source.path}",
                fix="onnxopt doctor M.onnx --data D",
            )
        return examine_data(model, source, target=target, output_name=output_name, progress=progress)
    if output_name is not None or (source or Source()) != Source():
        raise UsageError(
            "these options are about data, and none are given",
            where="onnxopt doctor",
            fix="give --data, or leave --labels, --preprocess, --samples, --seed and --output-name out",
        )
    with workspace() as work:
        probe, feeds = write_probe(work / "probe.onnx"), [probe_feeds()]
        trials = _try_all(probe, feeds, [p.short for p in installed_providers()], target.threads, progress)
        usable = [t.provider for t in trials if t.runs]
        own: list[Trial] = []
        if model is not None:
            own, given = _try_model(model, usable, target.threads, progress)
            if any(t.runs and t.provider == "cpu" for t in own):
                probe, feeds = model, given
        block, busy = environment(target), busy_share()
        noise = _noise(probe, feeds, target, progress) if "cpu" in usable else None
    packages, memory_mb = runtime_packages(), available_mb()
    outlook, spinning = int8_outlook(cpu_flags()), _spinning(target)
    data: dict[str, JSON] = {
        "environment": {**block, "spinning_because": spinning, "busy_share": busy, "memory_available_mb": memory_mb},
        "runtime_packages": dict[str, JSON](packages),
        "int8": as_json(outlook),
        "providers": [as_json(t) for t in trials],
        "model": None if model is None else [as_json(t) for t in own],
        "noise": None if noise is None else as_json(noise),
    }
    machine: list[tuple[Cell, ...]] = [
        ("CPU", _text(block["cpu"])),
        ("integer instructions", _text(block["isa"])),
        ("INT8", outlook.sentence),
        ("cores", f"{_text(block['cores_allowed'])} allowed of {_text(block['cores_visible'])} visible"),
        ("CPU quota", "none" if block["cgroup_quota"] is None else f"{block['cgroup_quota']} CPUs"),
        ("threads", f"{target.threads}"),
        ("spinning", spinning),
        ("governor", _text(block["governor"])),
        ("busy now", f"{busy:.0%} of the allowed cores"),
        ("memory available", "-" if memory_mb is None else f"{memory_mb:,} MiB of {_text(block['memory_mb'])}"),
        ("versions", ", ".join(f"{name} {_text(block[name])}" for name in ("onnxruntime", "onnx", "numpy", "python"))),
    ]
    tables = [_provider_table(trials), Table("Machine", ("", ""), tuple(machine))]
    if model is not None:
        tables.insert(1, _trial_table(f"{model.name} on each provider that runs", own))
    if noise is not None:
        tables.append(_noise_table(noise))
    notes = [
        *_provider_notes(trials, packages),
        *_machine_notes(block["governor"], busy, memory_mb, outlook.sentence if outlook.is_fast is False else None),
        *_noise_notes(noise, target),
        *(
            Note(t.provider, "falls back", f"{len(t.fallback)} nodes: {', '.join(t.fallback)}")
            for t in own
            if t.fallback
        ),
    ]
    return Report("doctor", _verdict(usable, model, own, noise), data, tuple(tables), tuple(notes))


def _try_all(
    path: Path, feeds: Sequence[Feeds], names: Sequence[str], threads: int, progress: Progress, *, strict: bool = True
) -> list[Trial]:
    trials: list[Trial] = []
    with progress.task(f"trying {path.name} on each provider", len(names)) as advance:
        for name in names:
            trials.append(try_provider(path, feeds, Target(name, threads, allow_fallback=not strict)))
            advance(1)
    return trials


def _try_model(
    path: Path, usable: Sequence[str], threads: int, progress: Progress
) -> tuple[list[Trial], Sequence[Feeds]]:
    """What each usable provider makes of the model, and made-up inputs that it runs on."""
    specs = input_specs(load(path))
    refused: list[Trial] = []
    for name in sorted(usable, key="cpu".__ne__):
        try:
            feeds = [s.feeds for s in made_up(path, specs, Target(name, threads, allow_fallback=True))]
        except OnnxoptError as error:
            refused.append(Trial(name, False, reason=error.what, fix=error.fix))
        else:
            return _try_all(path, feeds, usable, threads, progress, strict=False), feeds
    return refused, []


def _noise(path: Path, feeds: Sequence[Feeds], target: Target, progress: Progress) -> Noise:
    found = compare_latency(
        path, path, feeds, target, min_processes=PROCESSES, max_processes=PROCESSES, progress=progress
    )
    spread = statistics.stdev(found.process_ratios)
    least, most = (found.mde * math.sqrt(PROCESSES / count) for count in GATE_PROCESSES)
    return Noise(path.name, spread, (least, most), found)


def _spinning(target: Target) -> str:
    if target.threads == 1:
        return "off: one thread does not wait"
    if is_spinning(settle_spinning(target, paired=True)):
        return "on, and off between runs: there is no quota and the cores are mostly idle"
    if cgroup_quota() is not None:
        return "off: threads that wait would use up the CPU quota"
    return "off: other programs use the cores"


def _provider_table(trials: Sequence[Trial]) -> Table:
    tried = {t.provider: t for t in trials}
    rows: list[tuple[Cell, ...]] = []
    for known in PROVIDERS:
        if t := tried.get(known.short):
            rows.append((known.short, "yes" if t.runs else "no", t.load_ms, t.first_run_ms, t.reason))
        else:
            rows.append((known.short, "not installed", None, None, f"comes with {known.package}"))
    return Table(
        "Providers, each tried in a fresh process", ("provider", "runs", "load ms", "first run ms", ""), tuple(rows)
    )


def _trial_table(title: str, trials: Sequence[Trial]) -> Table:
    rows = tuple(
        (t.provider, "yes" if t.runs else "no", t.load_ms, t.first_run_ms, len(t.fallback), t.reason) for t in trials
    )
    return Table(title, ("provider", "runs", "load ms", "first run ms", "nodes elsewhere", ""), rows)


def _noise_table(noise: Noise) -> Table:
    c = noise.comparison
    row = (noise.model, c.reference.p50_ms, f"{noise.spread:.2%}", *(f"{change:.2%}" for change in noise.finds))
    few, many = GATE_PROCESSES
    return Table(
        f"Noise floor: a model against itself in {PROCESSES} fresh processes",
        ("model", "p50 ms", "spread", f"found by {few} processes", f"found by {many} processes"),
        (row,),
    )


def _provider_notes(trials: Sequence[Trial], packages: dict[str, str]) -> list[Note]:
    notes = [Note(t.provider, "does not run", f"{t.reason}; {t.fix}") for t in trials if not t.runs]
    if len(packages) > 1:
        named = " and ".join(f"{name} {version}" for name, version in packages.items())
        reason = (
            f"{named} overwrite each other's files, and which providers are left is chance: "
            f"pip uninstall {' '.join(packages)}, then install the one you need"
        )
        notes.append(Note("onnxruntime", "conflict", reason))
    return notes


def _machine_notes(governor: JSON, busy: float, memory_mb: int | None, slow_int8: str | None) -> list[Note]:
    notes: list[Note] = []
    if governor not in (None, "performance"):
        notes.append(Note("governor", "advice", f"{governor} changes the clock while measuring; set it to performance"))
    if busy > BUSY:
        notes.append(Note("load", "advice", f"{busy:.0%} of the cores are busy: close other programs"))
    if memory_mb is not None and memory_mb < LITTLE_MEMORY_MB:
        notes.append(Note("memory", "advice", f"only {memory_mb} MiB are available: close other programs"))
    if slow_int8 is not None:
        notes.append(Note("INT8", "advice", slow_int8 + "; measure on the CPU that will run the model"))
    return notes


def _noise_notes(noise: Noise | None, target: Target) -> list[Note]:
    if noise is None or noise.finds[1] <= MARGIN:
        return []
    advice = "close other programs, set the governor to performance"
    if target.threads > 1:
        advice += f", or measure with fewer threads than {target.threads}"
    return [
        Note("noise", "advice", f"even {GATE_PROCESSES[1]} processes do not find a change of {MARGIN:.0%}: {advice}")
    ]


def _verdict(usable: Sequence[str], model: Path | None, own: Sequence[Trial], noise: Noise | None) -> Verdict:
    if not usable:
        return Verdict(Status.FAIL, "no provider of the installed ONNX Runtime runs even a small model")
    if model is not None and not any(t.runs for t in own):
        return Verdict(Status.FAIL, f"{model.name} runs on none of {', '.join(usable)}: {own[0].reason}")
    parts = [f"{', '.join(usable)} can be used"]
    if model is not None:
        parts.append(f"{model.name} runs on {', '.join(t.provider for t in own if t.runs)}")
    if noise is not None:
        parts.append(f"a gate here finds changes from about {max(noise.finds[1], CLEAR_BY):.1%} up")
    return Verdict(Status.PASS, "; ".join(parts))


def _text(value: JSON) -> str:
    if value is None:
        return "-"
    return ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
