"""ONNX Runtime sessions that are what they were asked to be, or an error.

ONNX Runtime creates a CPU session with a log line when a requested provider cannot be created, and runs single nodes on
the CPU when a provider declines them. Both are errors here unless the target allows fallback.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from onnxopt.errors import DataError, ModelError, ProviderError
from onnxopt.run.placement import Placed, declined_because, described, placed_elsewhere, record_placement
from onnxopt.run.providers import CPU, chain, check_installed, printed_reason, quiet_creation, session_threads
from onnxopt.run.settings import NO_SETTINGS, SessionSettings, read_settings, settings_path
from onnxopt.run.target import Target, provider
from onnxopt.run.words import said

__all__ = ["Feeds", "Recording", "Session", "load_session", "open_session"]

Feeds: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

QUIET = 4
"""Log severity: fatal only; what goes wrong reaches the user as an exception."""

# The variable that onnxopt sets comes too late where the caller imported ONNX Runtime first; this does not.
ort.disable_telemetry_events()


@dataclass(frozen=True)
class Session:
    """An open ONNX Runtime session.

    Attributes:
        raw: ONNX Runtime's own object.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        path: The model file.
        load_ns: Time that ONNX Runtime took to create it.
        fallback: Nodes that run on another provider than the requested one.
        declined: Why the requested provider was not created at all; ``None``: it was.
        settings: What was read from the file beside the model and applied.
    """

    raw: ort.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: Path
    load_ns: int
    fallback: tuple[Placed, ...] = ()
    declined: str | None = None
    settings: SessionSettings = NO_SETTINGS

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """The named outputs (default: all) for one set of feeds.

        Raises:
            DataError: ONNX Runtime cannot run the model on these feeds.
        """
        names = list(self.outputs if outputs is None else outputs)
        try:
            values = self.raw.run(names, feeds)
        except Exception as error:  # the runtime's exceptions share no base class
            raise DataError(
                f"the model does not run on this input: {said(error)}",
                where=f"{self.path.name}, inputs {describe_feeds(feeds)}",
                fix="check the values and shapes of the data against `onnxopt inspect`",
            ) from error
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class Recording:
    """What a session writes down.

    Attributes:
        profile: Prefix of the file with the time of each kernel, which ``end_profiling`` names.
        optimized: Where the graph that is executed goes, its weights beside it; ``None``: nowhere.
    """

    profile: Path
    optimized: Path | None = None


def open_session(path: Path, target: Target, *, recording: Recording | None = None) -> Session:
    """A session for the model file at ``path`` on ``target``, with ONNX Runtime's default graph optimizations (all).

    The settings in ``<path>.session.json``, if there are any for this provider, are applied.

    Args:
        path: The model file.
        target: Provider, threads and options.
        recording: What the session writes down; default: nothing.

    Raises:
        ProviderError: The provider is not installed, cannot take the model, was not created, or declined nodes; the
            last two are accepted where the target allows fallback.
        ModelError: ONNX Runtime cannot load the model.
    """
    check_installed(target)
    wanted = provider(target.provider)
    settings = read_settings(path)
    if settings.provider != wanted.short:
        settings = NO_SETTINGS
    options = _session_options(path, target, settings)
    if recording is not None:
        _record(options, recording)
    try:
        with quiet_creation(target) as printed:
            start = time.perf_counter_ns()
            raw = ort.InferenceSession(
                str(path),
                sess_options=options,
                providers=chain(target),
                enable_fallback=0,
                disabled_optimizers=list(settings.disabled_optimizers),
            )
            load_ns = time.perf_counter_ns() - start
    except Exception as error:
        raise _load_error(path, error, target) from error
    raw.disable_fallback()  # before 1.23 a run that fails on the provider would be repeated on the CPU
    declined: str | None = None
    fallback: tuple[Placed, ...] = ()
    if wanted.name not in raw.get_providers():
        declined = said(printed_reason(printed) or declined_because(path, target)) or "ONNX Runtime does not say why"
        if not target.allow_fallback:
            raise ProviderError(
                f"ONNX Runtime did not create {wanted.name}: {declined}",
                where=f"{path.name}, --provider {wanted.short}; it would silently use {', '.join(raw.get_providers())}",
                fix="install the library that is missing (`onnxopt doctor` tries every provider), "
                "or accept the fallback with --allow-fallback",
            )
    if wanted.name != CPU:
        fallback = placed_elsewhere(raw, path, target, wanted.name)
    if fallback and not target.allow_fallback:
        _refuse_fallback(path, target, fallback)
    inputs, outputs = tuple(i.name for i in raw.get_inputs()), tuple(o.name for o in raw.get_outputs())
    return Session(raw, inputs, outputs, path, load_ns, fallback, declined, settings)


def load_session(path: str | Path, target: Target | None = None) -> ort.InferenceSession:
    """ONNX Runtime's own session for a model file, with the settings that were measured to pay for it.

    Args:
        path: The model file; ``<path>.session.json`` beside it is applied where its provider is that of ``target``.
        target: Provider, threads and options; default: the CPU with all cores that are allowed here.

    Raises:
        ProviderError: The provider cannot be used (``open_session``).
        ModelError: The model, or the file of settings, cannot be loaded.
    """
    return open_session(Path(path), target or Target()).raw


def _refuse_fallback(path: Path, target: Target, fallback: Sequence[Placed]) -> None:
    """Raises unless the nodes do nothing but compute shapes.

    Raises:
        ProviderError: A node computes something else.
    """
    from onnxopt.run.shape_work import shape_nodes

    harmless = shape_nodes(path)
    serious = [node for node in fallback if (node.op, node.name) not in harmless]
    if serious:
        short = provider(target.provider).short
        raise ProviderError(
            f"nodes would run on another provider than {short}: {described(serious)}",
            where=f"{path.name}, --provider {short}",
            fix="accept it with --allow-fallback (the report then says how much of the time it costs), "
            "or choose a provider that has these kernels",
        )


def describe_feeds(feeds: Feeds) -> str:
    """Names, dtypes and shapes of feeds, for messages."""
    return ", ".join(f"{name} {array.dtype.name}{list(array.shape)}" for name, array in feeds.items()) or "(none)"


def _session_options(path: Path, target: Target, settings: SessionSettings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = session_threads(target)
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    if provider(target.provider).name != CPU:
        record_placement(options)
    for key, value in {**settings.session_config, **target.session_config}.items():
        try:
            options.add_session_config_entry(key, value)
        except RuntimeError as error:
            raise ModelError(
                f"ONNX Runtime does not take the session setting {key[:40]!r}: {said(error)}",
                where=settings_path(path).name if key in settings.session_config else path.name,
                fix="correct or remove that setting",
            ) from error
    return options


def _record(options: ort.SessionOptions, recording: Recording) -> None:
    options.enable_profiling = True
    options.profile_file_prefix = str(recording.profile)
    if recording.optimized is not None:
        options.optimized_model_filepath = str(recording.optimized)
        weights = f"{recording.optimized.name}.data"  # apart, since a message of protobuf holds less than 2 GiB
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)


def _load_error(path: Path, error: Exception, target: Target) -> ModelError | ProviderError:
    text, wanted = said(error), provider(target.provider)
    if wanted.name != CPU and _loads_on_cpu(path):
        return ProviderError(
            f"{wanted.name} cannot take the model: {text}",
            where=f"{path.name}, --provider {wanted.short}",
            fix="the model loads on the CPU: choose another provider, another version of it, or other provider options",
        )
    if "is not a registered function/op" in text or "No Op registered for" in text:
        return ModelError(
            f"the model uses an operator that ONNX Runtime does not have: {text}",
            where=str(path.name),
            fix="remove or replace the custom operator; onnxopt only writes models that it can run and compare",
        )
    return ModelError(
        f"ONNX Runtime cannot load the model: {text}",
        where=str(path.name),
        fix="check the file with `onnx.checker`, or export it again (with a lower opset if the opset is the reason)",
    )


def _loads_on_cpu(path: Path) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = QUIET
    try:
        ort.InferenceSession(str(path), sess_options=options, providers=[CPU])
    except Exception:  # the runtime's exceptions share no base class
        return False
    return True
