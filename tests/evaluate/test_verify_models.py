from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxopt.errors import DataError, ModelError, VerificationError
from onnxopt.evaluate.verify import verify
from onnxopt.run.target import Target

Feeds = list[dict[str, np.ndarray]]
X = "g (float[N,3] x) => (float[N,3] y)"


@pytest.fixture
def feeds() -> Feeds:
    return [{"x": np.random.default_rng(i).normal(size=(4, 3)).astype(np.float32)} for i in range(3)]


def test_the_same_function_in_other_nodes_passes(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    first = write("a", f"{X} {{ z = Mul(x, two) \n y = Add(z, z) }}", two=np.float32(2))
    second = write("b", f"{X} {{ y = Mul(x, four) }}", four=np.float32(4))
    found = verify(first, second, feeds, target)
    assert (found.feeds, found.notes) == (3, ())
    assert found.drift[0].sqnr_db == math.inf


def test_a_difference_names_output_feed_and_size(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    first, second = (
        write("a", f"{X} {{ y = Identity(x) }}"),
        write("b", f"{X} {{ y = Clip(x, low) }}", low=np.float32(-1)),
    )
    first_bad = next(i for i, feed in enumerate(feeds) if feed["x"].min() < -1)
    size = -1 - feeds[first_bad]["x"].min()
    with pytest.raises(VerificationError, match=rf"largest difference {size:.3g}(.|\n)*output 'y', feed {first_bad}"):
        verify(first, second, feeds, target)
    assert verify(first, second, feeds, target, exact=False).drift[0].max_abs > 0  # type: ignore[operator]


@pytest.mark.parametrize(("shift", "passes"), [(5e-4, True), (5e-3, False)])
def test_the_tolerance_scales_with_the_largest_magnitude(
    write: Callable[..., Path], target: Target, shift: float, passes: bool
) -> None:
    first, second = (write(n, f"{X} {{ y = Add(x, s) }}", s=np.float32(s)) for n, s in (("a", 0.0), ("b", shift * 100)))
    feeds = [{"x": np.array([[100.0, 0.0, 1e-3]], np.float32)}]
    if passes:
        verify(first, second, feeds, target)
    else:
        with pytest.raises(VerificationError, match=r"allowed 0\.1"):
            verify(first, second, feeds, target)


@pytest.mark.parametrize("exact", [True, False])
def test_values_that_break_are_refused(write: Callable[..., Path], target: Target, exact: bool) -> None:
    first, second = write("a", f"{X} {{ y = Abs(x) }}"), write("b", f"{X} {{ z = Sqrt(x) \n y = Mul(z, z) }}")
    with pytest.raises(VerificationError, match="1 of 3 values are NaN or infinite"):
        verify(first, second, [{"x": np.array([[1.0, 2.0, -3.0]], np.float32)}], target, exact=exact)
    found = verify(second, first, [{"x": np.array([[1.0, 2.0, -3.0]], np.float32)}], target, exact=exact)
    assert found.notes == ()
    found = verify(second, first, [{"x": -np.ones((1, 3), np.float32)}], target, exact=exact)
    assert [note.node for note in found.notes] == ["y"]


def test_integers_must_be_equal_only_when_exact(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    graph = "g (float[N,3] x) => (int64[N] y) {{ y = {}<axis=1, keepdims=0>(x) }}"
    first, second = write("a", graph.format("ArgMax")), write("b", graph.format("ArgMin"))
    with pytest.raises(VerificationError, match="4 of 4 values differ"):
        verify(first, second, feeds, target)
    verify(first, second, feeds, target, exact=False)


def test_random_outputs_are_left_out_with_a_note(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    head, noise = "g (float[N,3] x) => (float[N,3] y, float[N,3] z)", "y = RandomNormalLike(x)"
    first = write("a", f"{head} {{ {noise} \n z = Abs(x) }}")
    second = write("b", f"{head} {{ z = Abs(x) \n {noise} }}")
    wrong = write("c", f"{head} {{ z = Neg(x) \n {noise} }}")
    found = verify(first, second, feeds, target)
    assert [(note.node, note.verdict) for note in found.notes] == [("y", "skipped")]
    assert [drift.name for drift in found.drift] == ["z"]
    with pytest.raises(VerificationError, match="output 'z'"):
        verify(first, wrong, feeds, target)


def test_another_interface_is_refused(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    two = "g (float[N,3] x) => (float[N,3] {}, float[N,3] {}) {{ a = Abs(x) \n b = Neg(x) }}"
    first, second = write("a", two.format("a", "b")), write("b", two.format("b", "a"))
    with pytest.raises(VerificationError, match="outputs 'b', 'a' instead of 'a', 'b'"):
        verify(first, second, feeds, target)


def test_sizes_may_differ_only_where_they_follow_from_values(write: Callable[..., Path], target: Target) -> None:
    graph = "g (float[N] x) => (int64[1,K] y) { m = Greater(x, t) \n y = NonZero(m) }"
    first, second = (write(n, graph, t=np.float32(t)) for n, t in (("a", 0.0), ("b", 0.5)))
    feeds = [{"x": np.array([0.2, 1.0], np.float32)}]
    with pytest.raises(VerificationError, match=r"shape \[1, 1\] instead of \[1, 2\]"):
        verify(first, second, feeds, target)
    assert verify(first, second, feeds, target, exact=False).drift[0].resized == 1
    graph = "g (float[N] x) => (float[N] y) { y = Expand(x, s) }"
    first, second = (write(n, graph, s=np.array([s])) for n, s in (("a", 1), ("b", 2)))
    with pytest.raises(VerificationError, match="shape"):
        verify(first, second, [{"x": np.ones(1, np.float32)}], target, exact=False)


def test_sequences_are_compared_element_by_element(write: Callable[..., Path], feeds: Feeds, target: Target) -> None:
    graph = "g (float[N,3] x) => (seq(float[N,3]) y) {{ z = {}(x) \n y = SequenceConstruct(x, z) }}"
    first, second = write("a", graph.format("Abs")), write("b", graph.format("Neg"))
    verify(first, first, feeds, target)
    with pytest.raises(VerificationError, match="largest difference"):
        verify(first, second, feeds, target)


def test_what_does_not_load_or_run(write: Callable[..., Path], feeds: Feeds, target: Target, tmp_path: Path) -> None:
    first = write("a", f"{X} {{ y = Abs(x) }}")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(VerificationError, match="does not load"):
        verify(first, broken, feeds, target)
    with pytest.raises(ModelError):
        verify(broken, first, feeds, target)
    fixed = write("c", f"{X} {{ y = Reshape(x, s) }}", s=np.array([7, 3]))
    with pytest.raises(VerificationError, match="feed 0"):
        verify(first, fixed, feeds, target)
    with pytest.raises(DataError, match="no input"):
        verify(first, first, [], target)
