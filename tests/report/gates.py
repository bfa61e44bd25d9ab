"""Reports of gates made by hand, and names that try to get out of the place where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from hypothesis import strategies as st

from onnxopt.commands.checks import Check, conclude
from onnxopt.core.report import JSON, Report, Status

HOSTILE = (
    "a]]>b<![CDATA[c",
    "\"quoted\" & 'quoted' <b>bold</b> &amp; &#124;",
    "two\nlines\r\nand\rmore",
    "\n::error title=x::not mine\n::stop-commands::pause",
    "##[error]not mine",
    "100%0A%25, a:b,c",
    "\x00\x07\x1b[31mred\x1b[0m\x7f\x85\u2028",
    "half \ud83d, undecodable \udcff, \ufffe and \uffff",
    "| cell | another |\n|---|---|",
    "`code` ``` ~~~ *em* **strong** _em_ ~~gone~~ \\| $x$",
    "</details></td></table><script>alert(1)</script><!-- open",
    "@everyone #1 !2 GH-3 owner/repo#4 [link](http://a.org) ![image](x) https://a.org www.a.org a@b.org",
    "# heading\n> quote\n- item\n1. one\n/close\n---\n    code",
    "ünïcödé 模型 🙂 \u202egnp.exe",
    " " * 3,
    "-",
)
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(HOSTILE)
NUMBERS = st.none() | st.floats()


def check(status: Status = Status.PASS, **changes: object) -> Check:
    given = {
        "name": "latency ratio",
        "status": status,
        "measured": 0.991,
        "low": 0.985,
        "high": 0.997,
        "limit": 1.03,
        "unit": "",
        "reason": f"the ratio came out as {status.value}",
    }
    return Check(**{**given, **changes})  # pyright: ignore[reportArgumentType]


def gate_report(checks: Sequence[Check], environment: dict[str, JSON] | None = None, file: str = "m.onnx") -> Report:
    return Report(
        "gate",
        conclude(checks, file),
        {
            "checks": [{**asdict(c), "status": c.status.value} for c in checks],
            "environment": {"cpu": "Some CPU", "isa": ["avx2", "avx512f"], "cgroup_quota": None, "threads": 2}
            if environment is None
            else environment,
            "candidate": {"file": file, "sha256": "ab" * 32},
            "baseline": {"file": "ref.onnx", "sha256": "cd" * 32, "stored": False},
        },
    )


CHECKS = st.builds(
    Check,
    name=TEXTS,
    status=st.sampled_from([Status.PASS, Status.FAIL, Status.INCONCLUSIVE]),
    measured=NUMBERS,
    low=NUMBERS,
    high=NUMBERS,
    limit=st.floats(),
    unit=st.sampled_from(["", "ms", "MB", "dB"]),
    reason=TEXTS,
)
REPORTS = st.builds(
    gate_report,
    st.lists(CHECKS, min_size=1, max_size=4),
    st.dictionaries(TEXTS, st.none() | TEXTS | st.lists(TEXTS, max_size=2), max_size=3),
    TEXTS,
)
