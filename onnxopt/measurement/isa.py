"""What the instruction sets of a CPU let one expect of INT8."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["Outlook", "int8_outlook"]


@dataclass(frozen=True)
class Outlook:
    """What to expect of INT8.

    Attributes:
        is_fast: Whether there is an instruction that sums products of 8-bit integers; ``None``: not known.
        sentence: The same in one sentence.
    """

    is_fast: bool | None
    sentence: str


def int8_outlook(flags: Collection[str]) -> Outlook:
    """What to expect of INT8 on a CPU with these flags (Linux's names, as in ``/proc/cpuinfo``)."""
    has = frozenset(flags)
    if "amx_int8" in has:
        return Outlook(True, "AMX multiplies tiles of 8-bit integers: large MatMul and Conv gain most from INT8")
    if has & {"avx512_vnni", "avx_vnni"}:
        return Outlook(
            True, "VNNI sums 8-bit products exactly in one instruction: INT8 usually pays for Conv and MatMul"
        )
    if has & {"avx512f", "avx2"}:
        return Outlook(
            False,
            "no VNNI: 8-bit products are summed in 16 bits, which saturates for unsigned activations with signed "
            "weights (results differ from a CPU with VNNI), and the gain is little",
        )
    if "i8mm" in has:
        return Outlook(True, "i8mm multiplies matrices of 8-bit integers: INT8 usually pays for Conv and MatMul")
    if "asimddp" in has:
        return Outlook(True, "the dot product of NEON sums four 8-bit products at once: INT8 usually pays")
    if "asimd" in has:
        return Outlook(False, "NEON without dot product: the gain of INT8 is little")
    if has:
        return Outlook(False, "no vector instructions for 8-bit integers: INT8 saves memory, not time")
    return Outlook(None, "this system does not tell the instruction sets of its CPU")
