from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from onnxopt.measurement.env import busy_share, environment, is_spinning, settle_spinning
from onnxopt.run.target import Target, allowed_cores, cgroup_quota


def test_environment_is_json_and_names_no_one() -> None:
    block = environment(Target(threads=1))
    text = json.dumps(block)
    assert block["threads"] == 1
    assert block["spinning"] is False
    assert block["provider"] == "CPUExecutionProvider"
    assert block["cores_allowed"] <= block["cores_visible"]
    assert "/" not in text.replace(str(block["cpu"]), "")
    for private in (platform.node(), getpass.getuser()):
        assert len(private) < 5 or private not in text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_allowed_cores_follow_the_affinity_mask() -> None:
    program = (
        "import os; core = min(os.sched_getaffinity(0)); os.sched_setaffinity(0, {core});"
        "from onnxopt.run.target import Target, allowed_cores; print(allowed_cores(), Target().threads)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def cgroup(root: Path, files: dict[str, str], membership: str) -> float | None:
    for name, text in files.items():
        path = root / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "membership").write_text(membership)
    return cgroup_quota(root / "fs", root / "membership")


def test_cgroup_v2_tightest_level_counts(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n"}
    assert cgroup(tmp_path, files, "0::/a/b\n") == 1.5


def test_cgroup_v2_without_limit(tmp_path: Path) -> None:
    assert cgroup(tmp_path, {"a/cpu.max": "max 100000\n"}, "0::/a\n") is None


def test_cgroup_v1(tmp_path: Path) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    files |= {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
    membership = "5:memory:/elsewhere\n4:cpu,cpuacct:/job\n1:name=systemd:/\n"
    assert cgroup(tmp_path, files, membership) == 0.5


def test_cgroup_of_a_container_whose_path_is_the_hosts(tmp_path: Path) -> None:
    assert cgroup(tmp_path, {"cpu.max": "200000 100000\n"}, "0::/docker/0123abcd\n") == 2.0


def test_no_cgroup(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path, tmp_path / "none") is None


def test_spinning_is_settled_without_touching_what_the_user_set() -> None:
    one = Target(threads=1)
    assert settle_spinning(one, paired=True) == one
    for entry in ("0", "1"):
        chosen = replace(one, threads=2, session_config={"session.intra_op.allow_spinning": entry})
        settled = settle_spinning(chosen, paired=True)
        assert settled.session_config["session.intra_op.allow_spinning"] == entry
        assert is_spinning(settled) is (entry == "1")


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs per-core counters")
def test_busy_share_sees_other_processes() -> None:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(allowed_cores())]
    try:
        time.sleep(0.5)
        assert busy_share(0.5) > 0.5
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
