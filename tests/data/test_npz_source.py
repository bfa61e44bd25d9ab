"""Stacked arrays, folders of archives, subsets and fingerprints."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnxopt.core.query import TensorSpec
from onnxopt.data.dataset import split
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError, UsageError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = TensorSpec("x", F32, ("N", 3, 4, 5))
TOKENS = (TensorSpec("ids", I64, ("N", "T")), TensorSpec("mask", I64, ("N", "T")))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_rows_of_an_archive_are_samples_with_their_labels(tmp_path: Path) -> None:
    x, y = normal(6, 3, 4, 5), np.arange(6)
    data = open_dataset(save(tmp_path / "d.npz", x=x, labels=y), [IMAGE])
    assert len(data) == 6 and data.has_labels and data.source == "d.npz"
    for i, sample in enumerate(data):
        np.testing.assert_array_equal(sample.feeds["x"], x[i : i + 1])
        np.testing.assert_array_equal(sample.labels, [i])
    np.testing.assert_array_equal(data[4].feeds["x"], x[4:5])
    assert [int(s.labels[0]) for s in data] == list(range(6)), "a second pass gives the same"


def test_one_axis_more_means_whole_calls(tmp_path: Path) -> None:
    x, y = normal(2, 7, 3, 4, 5), np.arange(14).reshape(2, 7)
    data = open_dataset(save(tmp_path / "d.npz", x=x, labels=y), [IMAGE])
    assert len(data) == 2
    np.testing.assert_array_equal(data[1].feeds["x"], x[1])
    np.testing.assert_array_equal(data[1].labels, y[1])


def test_fixed_batch_takes_chunks_and_tells_the_rest(tmp_path: Path) -> None:
    spec = TensorSpec("x", F32, (4, 2))
    x, y = normal(10, 2), np.arange(10)
    data = open_dataset(save(tmp_path / "d.npz", x=x, labels=y), [spec])
    assert len(data) == 2
    np.testing.assert_array_equal(data[1].feeds["x"], x[4:8])
    np.testing.assert_array_equal(data[1].labels, y[4:8])
    assert any("2 samples left out" in note for note in data.notes)
    with pytest.raises(DataError, match="3 samples do not fill one batch of 4"):
        open_dataset(save(tmp_path / "few.npz", x=x[:3]), [spec])


def test_scalar_input_takes_one_entry_a_call(tmp_path: Path) -> None:
    specs = [TensorSpec("x", F32, ("N", 2)), TensorSpec("t", F32, ())]
    data = open_dataset(save(tmp_path / "d.npz", x=normal(3, 2), t=np.float32([1, 2, 3])), specs)
    assert data[2].feeds["t"].shape == () and data[2].feeds["t"] == 3


def test_several_inputs_and_a_chosen_label_name(tmp_path: Path) -> None:
    ids, mask = np.arange(12).reshape(4, 3), np.ones((4, 3), np.int64)
    data = open_dataset(save(tmp_path / "d.npz", mask=mask, ids=ids, y=np.eye(4)), TOKENS, labels="y")
    assert list(data[0].feeds) == ["ids", "mask"]
    np.testing.assert_array_equal(data[2].labels, np.eye(4)[2:3])
    with pytest.raises(DataError, match=r"no array 'z'[\s\S]*did you mean 'y'|no array 'z'[\s\S]*known"):
        open_dataset(str(tmp_path / "d.npz"), TOKENS, labels="z")


def test_an_input_named_labels_is_an_input(tmp_path: Path) -> None:
    specs = [TensorSpec("x", F32, ("N",)), TensorSpec("labels", I64, ("N",))]
    data = open_dataset(save(tmp_path / "d.npz", x=normal(3), labels=np.arange(3)), specs)
    assert not data.has_labels and list(data[1].feeds["labels"]) == [1]


def test_npy_feeds_a_single_input(tmp_path: Path) -> None:
    x = normal(3, 3, 4, 5)
    np.save(tmp_path / "x.npy", x)
    data = open_dataset(str(tmp_path / "x.npy"), [IMAGE])
    np.testing.assert_array_equal(np.concatenate([s.feeds["x"] for s in data]), x)
    with pytest.raises(DataError, match="cannot feed 2 inputs"):
        open_dataset(str(tmp_path / "x.npy"), TOKENS)


def test_folder_reads_in_natural_order_with_lengths_that_differ(tmp_path: Path) -> None:
    for i in (10, 9, 1):
        tokens = np.full((i,), i) if i != 9 else np.full((2, i), i)
        save(tmp_path / f"s{i}.npz", ids=tokens, mask=np.ones_like(tokens), labels=np.full(tokens.shape[:-1], i))
    data = open_dataset(str(tmp_path), TOKENS)
    assert [s.feeds["ids"].shape for s in data] == [(1, 1), (2, 9), (1, 10)]
    assert [s.labels.tolist() for s in data] == [[1], [9, 9], [10]]


def test_folder_wants_labels_in_all_files_or_none(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=normal(1, 3, 4, 5), labels=np.arange(1))
    save(tmp_path / "b.npz", x=normal(1, 3, 4, 5))
    with pytest.raises(DataError, match=r"1 of 2 files have labels[\s\S]*b\.npz"):
        open_dataset(str(tmp_path), [IMAGE])
    save(tmp_path / "b.npz", x=normal(2, 3, 4, 5), labels=np.arange(7))
    with pytest.raises(DataError, match=r"labels \(7,\) do not match[\s\S]*b\.npz"):
        open_dataset(str(tmp_path), [IMAGE])


def test_subset_is_seeded_and_keeps_order(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=normal(50, 3, 4, 5))
    first, again = (open_dataset(path, [IMAGE], samples=9, seed=3) for _ in range(2))
    assert first.order == again.order == tuple(sorted(set(first.order))) and len(first) == 9
    assert open_dataset(path, [IMAGE], samples=9, seed=4).order != first.order
    more = open_dataset(path, [IMAGE], samples=60)
    assert len(more) == 50 and any("60 samples asked for, 50 found" in note for note in more.notes)
    with pytest.raises(UsageError, match="--samples"):
        open_dataset(path, [IMAGE], samples=0)


def test_split_parts_are_disjoint_and_read_the_same_samples(tmp_path: Path) -> None:
    x = normal(20, 3, 4, 5)
    fit, judge = split(open_dataset(save(tmp_path / "d.npz", x=x), [IMAGE]), calibration=5, seed=0)
    assert sorted(fit.order + judge.order) == list(range(20)) and len(fit) == 5
    for part in (fit, judge):
        for index, sample in zip(part.order, part, strict=True):
            np.testing.assert_array_equal(sample.feeds["x"], x[index : index + 1])


def test_fingerprint_follows_content_only(tmp_path: Path) -> None:
    x = normal(4, 3, 4, 5)
    (tmp_path / "other").mkdir()
    one = open_dataset(save(tmp_path / "a.npz", x=x), [IMAGE])
    np.savez_compressed(tmp_path / "other" / "b.npz", x=x)
    assert open_dataset(str(tmp_path / "other" / "b.npz"), [IMAGE]).fingerprint() == one.fingerprint()
    x[3, 2, 3, 4] += 1
    assert open_dataset(save(tmp_path / "c.npz", x=x), [IMAGE]).fingerprint() != one.fingerprint()
    assert one.take([0, 1]).fingerprint() != one.take([1, 0]).fingerprint()


def test_folder_fingerprint_follows_content_only(tmp_path: Path) -> None:
    digests = []
    for folder, names in (("a", "pq"), ("b", "rs"), ("c", "qp")):
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            save(tmp_path / folder / f"{name}.npz", x=normal(1, 3, 4, 5, seed=i))
        digests.append(open_dataset(str(tmp_path / folder), [IMAGE]).digest)
    assert digests[0] == digests[1] != digests[2], "names do not matter, order does"


def test_feeds_do_not_depend_on_reading_order(tmp_path: Path) -> None:
    data = open_dataset(save(tmp_path / "d.npz", x=normal(8, 3, 4, 5)), [IMAGE])
    forward = [s.feeds["x"].copy() for s in data]
    backward = [data[i].feeds["x"] for i in reversed(range(8))][::-1]
    np.testing.assert_array_equal(forward, backward)


def test_dataset_can_be_sent_to_another_process(tmp_path: Path) -> None:
    data = open_dataset(save(tmp_path / "d.npz", x=normal(8, 3, 4, 5)), [IMAGE])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data))[5].feeds["x"], data[5].feeds["x"])


def test_truncated_and_foreign_files_are_named(tmp_path: Path) -> None:
    whole = Path(save(tmp_path / "d.npz", x=normal(100, 3, 4, 5))).read_bytes()
    for name, content in {
        "cut.npz": whole[: len(whole) // 2],
        "text.npz": b"hello",
        "empty.npz": b"",
        "flipped.npz": whole[:3000] + bytes([whole[3000] ^ 255]) + whole[3001:],
        "cut.npy": whole[:40],
        "text.npy": b"hello",
        "empty.npy": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"where: .*{name}"):
            open_dataset(str(tmp_path / name), [IMAGE])
    np.save(tmp_path / "short.npy", normal(4, 3, 4, 5))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-10])
    with pytest.raises(DataError, match=r"short\.npy"):
        open_dataset(str(tmp_path / "short.npy"), [IMAGE])
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4' (\n")
    with pytest.raises(DataError, match=r"header\.npy"):
        open_dataset(str(tmp_path / "header.npy"), [IMAGE])
    with zipfile.ZipFile(tmp_path / "readme.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(DataError, match=r"readme\.npz"):
        open_dataset(str(tmp_path / "readme.npz"), [IMAGE])


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(DataError, match="pickled objects can run code"):
            open_dataset(str(tmp_path / name), [IMAGE])
    buffer = io.BytesIO()
    pickle.dump([1], buffer)
    (tmp_path / "p.npy").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"p\.npy"):
        open_dataset(str(tmp_path / "p.npy"), [IMAGE])


def test_paths_that_hold_no_data(tmp_path: Path) -> None:
    save(tmp_path / "calibration.npz", x=normal(1, 3, 4, 5))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "x.parquet").touch()
    with pytest.raises(DataError, match=r"no such file[\s\S]*did you mean 'calibration\.npz'"):
        open_dataset(str(tmp_path / "calibrations.npz"), [IMAGE])
    with pytest.raises(DataError, match=r"holds no samples[\s\S]*give \.npz"):
        open_dataset(str(tmp_path / "nothing"), [IMAGE])
    with pytest.raises(DataError, match=r"\.parquet"):
        open_dataset(str(tmp_path / "x.parquet"), [IMAGE])


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=normal(1, 3, 4, 5))
    np.save(tmp_path / "d.npy", normal(1, 3, 4, 5))
    with pytest.raises(UsageError, match="images only"):
        open_dataset(path, [IMAGE], preprocess=tmp_path / "p.toml")
    with pytest.raises(UsageError, match="--labels y"):
        open_dataset(str(tmp_path / "d.npy"), [IMAGE], labels="y")
