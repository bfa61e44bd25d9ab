from __future__ import annotations

import subprocess
import sys

import pytest

from onnxopt.errors import UsageError
from onnxopt.passes.registry import CLEANUP, OPTIMIZE, create, names, summary


@pytest.mark.parametrize("name", names())
def test_name_and_class_agree(name):
    assert create(name).name == name
    assert summary(name)


def test_clean_up_is_exact_and_a_part_of_optimize():
    assert set(CLEANUP) < set(OPTIMIZE)
    assert not any(create(name).lossy for name in OPTIMIZE)


def test_options_reach_the_pass():
    assert create("fold-constants", max_growth_bytes=7).max_growth_bytes == 7


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'fold-batch-norm'"):
        create("fold-batchnorm")


def test_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'max_growth_bytes'"):
        create("fold-constants", max_growth=7)


def test_listing_imports_nothing_heavy():
    code = "import sys; from onnxopt.passes.registry import names, summary; [summary(n) for n in names()]; "
    code += "print([m for m in ('onnx', 'onnx_ir', 'onnxruntime', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
