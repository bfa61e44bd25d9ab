"""What the options of ``merge`` that speak of single members mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxopt.errors import UsageError, nearest
from onnxopt.merging.adapt import Adapter, read_adapter

__all__ = ["by_member", "read_adapters", "read_input_map", "read_output_names"]


def by_member(text: str, titles: Sequence[str], option: str) -> tuple[int, str]:
    """The member and the rest of ``MEMBER:REST``; the member by number, from 1, or by file name.

    Raises:
        UsageError: There is no such member.
    """
    name, colon, rest = text.partition(":")
    if not colon:
        raise UsageError(
            f"{text!r} names no member", where=option, fix=f"write {titles[0]}:... or 1:... for the first model"
        )
    for index, title in enumerate(titles):
        if text.startswith(f"{title}:"):
            return index, text[len(title) + 1 :]
    if name.isdecimal() and 1 <= int(name) <= len(titles):
        return int(name) - 1, rest
    known = [*titles, *(str(i + 1) for i in range(len(titles)))]
    raise UsageError(f"there is no model {name!r}", where=f"{option} {text}", fix=nearest(name, known))


def read_input_map(items: Sequence[str], titles: Sequence[str]) -> Mapping[int, Mapping[str, str]]:
    """``MEMBER:INPUT=NAME`` items: member -> its input -> the shared input that feeds it.

    Raises:
        UsageError: An item is written otherwise.
    """
    found: dict[int, dict[str, str]] = {}
    for item in items:
        index, rest = by_member(item, titles, "--input-map")
        own, equals, shared = rest.rpartition("=")
        if not equals or not own or not shared:
            raise UsageError(
                f"{item!r} maps nothing", where="--input-map", fix="write MEMBER:INPUT=NAME, as in 2:image=pixels"
            )
        found.setdefault(index, {})[own] = shared
    return found


def read_adapters(items: Sequence[str], titles: Sequence[str]) -> Mapping[int, Adapter]:
    """``MEMBER:KEY=VALUE,...`` or ``MEMBER:FILE.toml`` items: member -> what is done to its input first.

    Raises:
        UsageError: An item is written otherwise.
    """
    found: dict[int, Adapter] = {}
    for item in items:
        index, rest = by_member(item, titles, "--preprocess")
        if index in found:
            raise UsageError(
                f"{titles[index]} has two", where=f"--preprocess {item}", fix="give all keys of a member in one option"
            )
        found[index] = read_adapter(rest, f"--preprocess {item}")
    return found


def read_output_names(items: Sequence[str], titles: Sequence[str]) -> tuple[str | None, ...]:
    """For each member the output that takes part: ``MEMBER:NAME``, or ``NAME`` for all.

    Raises:
        UsageError: An item names no member.
    """
    found: list[str | None] = [None] * len(titles)
    for item in items:
        if not any(item.startswith(f"{t}:") for t in titles) and not item.partition(":")[0].isdecimal():
            found = [item if name is None else name for name in found]
            continue
        index, name = by_member(item, titles, "--output-name")
        found[index] = name
    return tuple(found)
