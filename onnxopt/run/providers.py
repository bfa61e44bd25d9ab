"""Execution providers as sessions get them: known to be installed, with options that keep to the target."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import onnxruntime as ort

from onnxopt.errors import ProviderError
from onnxopt.run.target import Target, provider

__all__ = ["CPU", "chain", "check_installed", "printed_reason", "quiet_creation", "session_threads"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
FATAL, WARNING = 4, 2
PRINTED = re.compile(r"EP Error (?P<text>.*?) when using \[", re.DOTALL)


def check_installed(target: Target) -> None:
    """Raises unless the installed ONNX Runtime was built with the provider of ``target``.

    Raises:
        ProviderError: It was not.
    """
    wanted, available = provider(target.provider), ort.get_available_providers()
    if wanted.name not in available:
        raise ProviderError(
            f"the installed ONNX Runtime has no {wanted.name}",
            where=f"--provider {wanted.short}",
            fix=f"install the package `{wanted.package}`, with no other onnxruntime package beside it; "
            f"available here: {', '.join(available)}",
        )


def chain(target: Target) -> list[str | tuple[str, Mapping[str, str]]]:
    """The provider of ``target`` with its options, then those that take the nodes which it declines.

    What computes on the CPU in threads of its own gets as many as the target says, and OpenVINO its CPU device, not
    whichever it likes best. Entries of ``target.options`` win.
    """
    wanted = provider(target.provider)
    own: dict[str, str] = {}
    if wanted.short == "openvino":
        own = {"device_type": "CPU", "num_of_threads": str(target.threads)}
    elif wanted.short == "xnnpack":
        own = {"intra_op_num_threads": str(target.threads)}
    names: list[str | tuple[str, Mapping[str, str]]] = [(wanted.name, {**own, **target.options})]
    if wanted.short == "tensorrt":
        device = {"device_id": target.options["device_id"]} if "device_id" in target.options else {}
        names.append((CUDA, device))
    if wanted.name != CPU:
        names.append(CPU)
    return names


def session_threads(target: Target) -> int:
    """Threads of the session's own pool; one where the provider has a pool that would compete with it (XNNPACK)."""
    return 1 if provider(target.provider).short == "xnnpack" else target.threads


@contextmanager
def quiet_creation(target: Target) -> Generator[io.StringIO]:
    """Keeps what ONNX Runtime prints about providers that it cannot create off the terminal; gives what it printed.

    The CUDA libraries that come as Python packages are loaded first: ONNX Runtime finds them only so.
    """
    wanted, printed = provider(target.provider), io.StringIO()
    if wanted.name == CPU:
        yield printed
        return
    preload: Callable[[], None] | None = getattr(ort, "preload_dlls", None)  # ONNX Runtime 1.21
    if wanted.short in ("cuda", "tensorrt") and preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
    ort.set_default_logger_severity(FATAL)
    try:
        with contextlib.redirect_stdout(printed):
            yield printed
    finally:
        ort.set_default_logger_severity(WARNING)


def printed_reason(printed: io.StringIO) -> str:
    """Why a provider was not created, where ONNX Runtime printed it: before 1.23 it insists on going on on the CPU."""
    found = PRINTED.search(printed.getvalue())
    return found["text"] if found else ""
