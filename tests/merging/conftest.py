from __future__ import annotations

import pytest

from tests.cli.command_line import latency


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency measurements that take no time, for tests of everything else."""
    for module in ("onnxopt.commands.merge", "onnxopt.commands.merge_fuse", "onnxopt.commands.merge_serial"):
        monkeypatch.setattr(f"{module}.compare_latency", lambda *args, **options: latency("faster"))
