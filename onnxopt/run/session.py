"""ONNX Runtime sessions that are what they were asked to be, or an error.

ONNX Runtime creates a CPU session with a log line when a requested provider cannot be created, and runs single nodes on
the CPU when a provider declines them. Both are errors here unless the target allows fallback.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from onnxopt.errors import DataError, ModelError, ProviderError
from onnxopt.run.target import Target, provider

__all__ = ["Feeds", "Recording", "Session", "open_session"]

Feeds: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

CPU = "CPUExecutionProvider"
QUIET = 4
"""Log severity: fatal only; what goes wrong reaches the user as an exception."""
SHAPE_OPS = frozenset(
    {"Shape", "Size", "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Range", "Identity"}
)
"""Small integer work on shapes that GPU providers leave on the CPU on purpose."""
CLUTTER = (
    re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"^Load model from .*? failed:\s*"),
    re.compile(r"^\S+\.(?:cc|h|cpp):\d+ (?:[^()]*::[^()]*\((?:[^()]|\([^()]*\))*\) )?"),
)
"""What stands before ONNX Runtime's own words, in this order."""

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
        fallback: Nodes that run on another provider than the requested one, as ``"Op (provider)"``.
    """

    raw: ort.InferenceSession
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    path: Path
    fallback: tuple[str, ...] = ()

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
                f"the model does not run on this input: {_said(error)}",
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

    Args:
        path: The model file.
        target: Provider, threads and options.
        recording: What the session writes down; default: nothing.

    Raises:
        ProviderError: The provider is not installed, was not created, or declined nodes.
        ModelError: ONNX Runtime cannot load the model.
    """
    wanted = provider(target.provider)
    if wanted.name not in ort.get_available_providers():
        raise ProviderError(
            f"the installed ONNX Runtime has no {wanted.name}",
            where=f"--provider {wanted.short}",
            fix=f"install the package `{wanted.package}`; available here: {', '.join(ort.get_available_providers())}",
        )
    options = _session_options(target)
    if recording is not None:
        _record(options, recording)
    providers: list[str | tuple[str, Mapping[str, str]]] = [(wanted.name, dict(target.options))]
    if wanted.name != CPU:
        providers.append(CPU)
    try:
        raw = ort.InferenceSession(str(path), sess_options=options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise _load_error(path, error) from error
    if wanted.name not in raw.get_providers():
        raise ProviderError(
            f"ONNX Runtime did not create {wanted.name}; it would silently use {', '.join(raw.get_providers())}",
            where=f"{path.name}, --provider {wanted.short}",
            fix="check the provider's libraries (driver, CUDA, cuDNN) with a verbose ONNX Runtime log",
        )
    fallback = () if wanted.name == CPU else _fallback_nodes(raw, wanted.name)
    serious = [entry for entry in fallback if entry.split(" ")[0] not in SHAPE_OPS]
    if serious and not target.allow_fallback:
        raise ProviderError(
            f"{len(serious)} node(s) would run on another provider: {', '.join(serious[:5])}",
            where=f"{path.name}, --provider {wanted.short}",
            fix="accept it with --allow-fallback, or choose a provider that has these kernels",
        )
    return Session(
        raw,
        tuple(i.name for i in raw.get_inputs()),
        tuple(o.name for o in raw.get_outputs()),
        path,
        fallback,
    )


def describe_feeds(feeds: Feeds) -> str:
    """Names, dtypes and shapes of feeds, for messages."""
    return ", ".join(f"{name} {array.dtype.name}{list(array.shape)}" for name, array in feeds.items()) or "(none)"


def _session_options(target: Target) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    if provider(target.provider).name != CPU:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in target.session_config.items():
        options.add_session_config_entry(key, value)
    return options


def _record(options: ort.SessionOptions, recording: Recording) -> None:
    options.enable_profiling = True
    options.profile_file_prefix = str(recording.profile)
    if recording.optimized is not None:
        options.optimized_model_filepath = str(recording.optimized)
        weights = f"{recording.optimized.name}.data"  # apart, since a message of protobuf holds less than 2 GiB
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)


def _fallback_nodes(raw: ort.InferenceSession, wanted: str) -> tuple[str, ...]:
    return tuple(
        f"{node.op_type} ({subgraph.ep_name})"
        for subgraph in raw.get_provider_graph_assignment_info()
        if subgraph.ep_name != wanted
        for node in subgraph.get_nodes()
    )


def _load_error(path: Path, error: Exception) -> ModelError:
    text = _said(error)
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


def _said(error: Exception) -> str:
    """What ONNX Runtime says, on one line, without its error number, file names and C++ signatures."""
    text = " ".join(str(error).split())
    for pattern in CLUTTER:
        text = pattern.sub("", text, count=1)
    return text[:400] or type(error).__name__
