"""One run of a session as it is timed: inputs and outputs are bound where the provider computes; no copy is timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnxruntime as ort

from onnxopt.run.session import Feeds, Session
from onnxopt.run.target import Target, provider

__all__ = ["Run", "bound_run", "host_run"]

Run = Callable[[], object]

ON_DEVICE = ("cuda", "tensorrt")
"""Providers whose tensors live in the memory of a CUDA device; all others take them from host memory."""


def bound_run(session: Session, target: Target, feeds: Feeds) -> Run:
    """A call of the session on inputs that are in place, with outputs that stay where they are computed.

    Not safe to share between threads: each needs its own. What cannot be bound (strings, sequences, maps) is run
    with ``session.run``.
    """
    if not _can_bind(session, feeds):
        return host_run(session, feeds)
    is_cuda = provider(target.provider).short in ON_DEVICE
    device, number = ("cuda" if is_cuda else "cpu"), int(target.options.get("device_id", "0")) if is_cuda else 0
    binding = session.raw.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, number))
    for name in session.outputs:
        binding.bind_output(name, device, number)
    if not is_cuda:
        return partial(session.raw.run_with_iobinding, binding)

    def run() -> None:
        session.raw.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def host_run(session: Session, feeds: Feeds) -> Run:
    """A call of the session from numpy arrays to numpy arrays."""
    return partial(session.raw.run, list(session.outputs), feeds)


def _can_bind(session: Session, feeds: Feeds) -> bool:
    types = [output.type for output in session.raw.get_outputs()]
    return all(t.startswith("tensor(") and t != "tensor(string)" for t in types) and all(
        array.dtype.kind not in "OSU" for array in feeds.values()
    )
