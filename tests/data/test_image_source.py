"""Image folders and manifests against computations made here with Pillow and numpy alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxopt.core.query import TensorSpec
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError, UsageError

F32 = np.dtype(np.float32)
NCHW = TensorSpec("x", F32, ("N", 3, 8, 8))
ANY = TensorSpec("x", F32, None)


def picture(path: Path, height: int = 20, width: int = 30, seed: int = 0, mode: str = "RGB", **save: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(pixels).save(path, **save)
    return path


def settings(folder: Path, text: str) -> Path:
    path = folder / "preprocess.toml"
    path.write_text(text)
    return path


def first(folder: Path, spec: TensorSpec, text: str | None = None) -> np.ndarray:
    images = folder / "images"
    preprocess = None if text is None else settings(folder, text)
    return open_dataset(str(images), [spec], preprocess=preprocess)[0].feeds["x"]


def test_the_usual_classification_pipeline(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "a.png", 20, 31)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    got = first(tmp_path, NCHW, f"size = 10\ncrop = 8\nmean = {mean}\nstd = {std}\n")
    resized = Image.open(path).resize((15, 10), Image.Resampling.BILINEAR)  # 31 * 10 / 20 = 15.5, cut down
    cropped = np.asarray(resized)[1:9, 4:12]  # (15 - 8) / 2 = 3.5, rounded to the even 4
    expected = ((cropped / 255.0 - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert got.dtype == np.float32 and got.flags.c_contiguous


def test_bgr_nhwc_without_scaling(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "a.png", 8, 8)
    spec = TensorSpec("x", F32, (1, 8, 8, 3))
    got = first(tmp_path, spec, 'colour = "BGR"\nscale = 1\nmean = [103.939, 116.779, 123.68]')
    expected = np.asarray(Image.open(path))[None, :, :, ::-1] - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_exact_stretches(tmp_path: Path, resize: str) -> None:
    path = picture(tmp_path / "images" / "a.png")
    got = first(tmp_path, ANY, f'size = [6, 9]\nresize_mode = "exact"\nresize = "{resize}"')
    expected = np.asarray(Image.open(path).resize((9, 6), Image.Resampling[resize.upper()])) / 255
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1)[None], rtol=1e-6)


def test_letterbox_pads_with_grey(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "a.png", 20, 40)
    got = first(tmp_path, TensorSpec("x", F32, ("N", 3, 16, 16)), 'size = 16\nresize_mode = "letterbox"\nscale = 1')
    inside = np.asarray(Image.open(path).resize((16, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(got[0, :, 4:12], inside)
    assert (got[0, :, :4] == 114).all() and (got[0, :, 12:] == 114).all()


def test_without_a_file_the_model_shape_decides(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "a.png", 16, 24)
    resized = np.asarray(Image.open(path).resize((12, 8), Image.Resampling.BILINEAR))[:, 2:10]
    np.testing.assert_allclose(first(tmp_path, NCHW), resized.transpose(2, 0, 1)[None] / 255, rtol=1e-6)
    nhwc = TensorSpec("x", F32, ("N", 8, 8, 3))
    np.testing.assert_allclose(first(tmp_path, nhwc), resized[None] / 255, rtol=1e-6)
    integers = TensorSpec("x", np.dtype(np.uint8), ("N", 8, 8, 3))
    np.testing.assert_array_equal(first(tmp_path, integers), resized[None])
    unbatched = TensorSpec("x", F32, (3, 8, 8))
    assert first(tmp_path, unbatched).shape == (3, 8, 8)
    data = open_dataset(str(tmp_path / "images"), [NCHW])
    assert any("no preprocessing given" in note for note in data.notes)
    with pytest.raises(DataError, match="--preprocess"):
        first(tmp_path, TensorSpec("x", F32, ("N", 3, "H", "W")))


def test_grey_models_get_grey_images(tmp_path: Path) -> None:
    path = picture(tmp_path / "images" / "a.png", 8, 8)
    got = first(tmp_path, TensorSpec("x", F32, ("N", 1, 8, 8)))
    np.testing.assert_allclose(got[0, 0], np.asarray(Image.open(path).convert("L")) / 255, rtol=1e-6)


def test_images_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    path = picture(tmp_path / "images" / "a.png", 4, 6, exif=exif)
    got = first(tmp_path, ANY, "scale = 1\nsize = 4")
    upright = np.rot90(np.asarray(Image.open(path)), -1)
    np.testing.assert_array_equal(got[0], upright.transpose(2, 0, 1))


def test_palettes_alpha_and_grey_files_become_rgb(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png", 8, 8, mode="L")
    picture(tmp_path / "images" / "2.png", 8, 8, mode="RGBA")
    rgb = Image.open(picture(tmp_path / "images" / "3.png", 8, 8))
    rgb.quantize(16).save(tmp_path / "images" / "4.png", transparency=bytes(range(16)))
    data = open_dataset(str(tmp_path / "images"), [NCHW])
    assert [sample.feeds["x"].shape for sample in data] == [(1, 3, 8, 8)] * 4
    alpha = np.asarray(Image.open(tmp_path / "images" / "2.png"))[..., :3]
    np.testing.assert_allclose(data[1].feeds["x"][0], alpha.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_deep_images_are_refused_not_clipped(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"not an 8-bit image[\s\S]*a\.png"):
        first(tmp_path, NCHW)


def test_class_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, count in (("dog", 2), ("cat", 1), ("eel", 1)):
        for i in range(count):
            picture(tmp_path / "images" / name / f"{i}.png", 8, 8, seed=i)
    (tmp_path / "images" / "readme.txt").write_text("hello")
    (tmp_path / "images" / ".hidden").mkdir()
    data = open_dataset(str(tmp_path / "images"), [NCHW])
    assert data.has_labels and [int(s.labels[0]) for s in data] == [0, 1, 1, 2]
    assert any("0=cat, 1=dog, 2=eel" in note for note in data.notes)
    assert any("1 files that are no images" in note and "readme.txt" in note for note in data.notes)
    picture(tmp_path / "images" / "loose.png")
    with pytest.raises(DataError, match=r"1 images lie beside the class folders[\s\S]*loose\.png"):
        open_dataset(str(tmp_path / "images"), [NCHW])


def test_plain_folders_and_single_subfolders_have_no_labels(tmp_path: Path) -> None:
    for i in (10, 9, 1):
        picture(tmp_path / "images" / "all" / f"i{i}.png", 8, 8, seed=i)
    data = open_dataset(str(tmp_path / "images"), [NCHW])
    assert not data.has_labels and data[0].labels is None
    paths = [tmp_path / "images" / "all" / f"i{i}.png" for i in (1, 9, 10)]
    for path, sample in zip(paths, data, strict=True):
        np.testing.assert_allclose(sample.feeds["x"][0], np.asarray(Image.open(path)).transpose(2, 0, 1) / 255, 1e-6)


def test_fixed_batch_stacks_images_with_the_same_values(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "images" / f"{i}.png", 8, 8, seed=i)
    single = open_dataset(str(tmp_path / "images"), [NCHW])
    batched = open_dataset(str(tmp_path / "images"), [TensorSpec("x", F32, (2, 3, 8, 8))])
    assert len(batched) == 2 and any("1 images left out" in note for note in batched.notes)
    rows = np.concatenate([sample.feeds["x"] for sample in batched])
    np.testing.assert_array_equal(rows, np.concatenate([sample.feeds["x"] for sample in single])[:4])
    with pytest.raises(DataError, match="5 images do not fill one batch of 6"):
        open_dataset(str(tmp_path / "images"), [TensorSpec("x", F32, (6, 3, 8, 8))])


def test_fingerprint_covers_pixels_labels_and_preprocessing(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "a" / f"{i}.png", 8, 8, seed=i)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "0.png").touch()

    def fingerprint(folder: str, text: str) -> str:
        return open_dataset(str(tmp_path / folder), [NCHW], preprocess=settings(tmp_path, text)).fingerprint()

    base = fingerprint("a", "size = 8")
    assert fingerprint("b", "# the same\nsize = 8") == base
    assert fingerprint("a", "size = 9") != base
    assert fingerprint("a", "size = 8\nmean = 0.5") != base
    picture(tmp_path / "b" / "2.png", 8, 8, seed=7)
    assert fingerprint("b", "size = 8") != base


def test_bad_images_are_named_when_read(tmp_path: Path) -> None:
    for i in range(2):
        picture(tmp_path / "images" / f"{i}.png", 40, 40)
    whole = (tmp_path / "images" / "0.png").read_bytes()
    contents = {"cut.png": whole[: len(whole) // 2], "text.png": b"hello", "empty.jpg": b"", "bad.gif": b"GIF89a\0\0"}
    for name, content in contents.items():
        bad = tmp_path / "images" / name
        bad.write_bytes(content)
        with pytest.raises(DataError, match=rf"where: .*{name}"):
            list(open_dataset(str(tmp_path / "images"), [NCHW]))
        bad.unlink()


def test_a_crop_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 6, 30)
    with pytest.raises(DataError, match=r"6 x 30 when it is to be cropped to 8 x 8[\s\S]*a\.png"):
        first(tmp_path, NCHW, "crop = 8")


def test_wrong_result_shape_is_told_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"expected \(N, 3, 8, 8\), found \(1, 3, 9, 9\)"):
        first(tmp_path, NCHW, "size = 9\ncrop = 9")
    with pytest.raises(DataError, match=r"has 8[\s\S]*right layout"):
        first(tmp_path, NCHW, 'layout = "NHWC"\nsize = 8\ncrop = 8')


def test_models_that_take_no_images(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for specs, message in (
        ([NCHW, TensorSpec("y", F32, ("N",))], "cannot feed 2 inputs"),
        ([TensorSpec("x", F32, ("N", 10))], "images cannot feed the input x"),
        ([TensorSpec("x", F32, ("N", 12, 8, 8))], "has 12"),
        ([TensorSpec("x", np.dtype(np.str_), ("N", 3, 8, 8))], "expected str"),
    ):
        with pytest.raises(DataError, match=message):
            open_dataset(str(tmp_path / "images"), specs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes = 3", "unknown key 'sizes'[\\s\\S]*did you mean 'size'"),
        ("color = 'RGB'", "did you mean 'colour'"),
        ("size = 'large'", "expected a positive integer[\\s\\S]*key 'size'"),
        ("size = true", "expected a positive integer"),
        ("size = 0", "expected a positive integer"),
        ("crop = [1, 2, 3]", "expected \\[height, width\\]"),
        ("mean = [0.5, 0.5]", "one number, or one per channel"),
        ("mean = 'x'", "expected a number"),
        ("mean = nan", "expected a number"),
        ("std = [1, 0, 1]", "above 0"),
        ("scale = 'x'", "expected a number"),
        ("colour = 'BRG'", "unknown value 'BRG'[\\s\\S]*'BGR'"),
        ("layout = 'nchw'", "unknown value 'nchw'"),
        ("resize = ['bilinear']", "unknown value"),
        ("resize_mode = 'fit'", "unknown value 'fit'"),
        ("colour = 'GRAY'\nmean = [0, 0, 0]\nsize = 8", "mean has 3 numbers for GRAY"),
        ("size = ", "not a TOML file"),
    ],
)
def test_wrong_preprocessing_is_wrong_usage(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(UsageError, match=message) as caught:
        first(tmp_path, NCHW, text)
    assert "preprocess.toml" in caught.value.where


def test_preprocess_file_that_does_not_exist(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"none\.toml"):
        open_dataset(str(tmp_path / "images"), [NCHW], preprocess=tmp_path / "none.toml")


def test_manifests_keep_their_order_and_labels(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "pics" / f"{i}.png", 8, 8, seed=i)
    entries = [("pics/2.png", 7), ("pics/0.png", 3), ("pics/1.png", 7)]
    (tmp_path / "m.csv").write_text("\ufeffpath,label,note\n" + "".join(f"{p},{n},x\n" for p, n in entries))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({"path": p, "label": n}) + "\n\n" for p, n in entries))
    csv, jsonl = (open_dataset(str(tmp_path / name), [NCHW]) for name in ("m.csv", "m.jsonl"))
    assert csv.fingerprint() == jsonl.fingerprint() and csv.source == "m.csv"
    assert [s.labels.tolist() for s in csv] == [[7], [3], [7]] and csv[0].labels.dtype == np.int64
    last = np.asarray(Image.open(tmp_path / "pics" / "1.png")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(csv[2].feeds["x"][0], last, rtol=1e-6)


def test_manifest_labels_may_be_names_numbers_or_absent(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 8, 8)
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label\na.png,dog\na.png,cat\n")
    data = open_dataset(str(manifest), [NCHW])
    assert [int(s.labels[0]) for s in data] == [1, 0] and any("0=cat" in note for note in data.notes)
    manifest.write_text("path,label\na.png,0.5\na.png,2\n")
    assert [float(s.labels[0]) for s in open_dataset(str(manifest), [NCHW])] == [0.5, 2.0]
    manifest.write_text("path\na.png\n")
    assert not open_dataset(str(manifest), [NCHW]).has_labels


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "", "no column 'path'"),
        ("m.csv", "a.png,1\n", "no column 'path'"),
        ("m.csv", "path,label\n", "lists no images"),
        ("m.csv", "path,label\nb.png,1\n", r"no such file: b\.png[\s\S]*line 2"),
        ("m.csv", "path,label\na.png,1\na.png,\n", r"some entries have a label[\s\S]*line 3"),
        ("m.csv", "path,label\na.png,1,2\n", r"more fields than columns[\s\S]*line 2"),
        ("m.csv", "path,label\n,1\n", r"no path[\s\S]*line 2"),
        ("m.csv", 'path,label\n"a.png,1\n', "not a readable CSV"),
        ("m.csv", "path,label\na.png,nan\n", "label is NaN"),
        ("m.jsonl", "{", r"not JSON[\s\S]*line 1"),
        ("m.jsonl", "[1]", "not a JSON object"),
        ("m.jsonl", '{"path": 3}', "no path"),
        ("m.jsonl", '{"path": "a.png", "label": [1]}', "no number or name"),
    ],
)
def test_bad_manifests_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    picture(tmp_path / "a.png", 8, 8)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(str(tmp_path / name), [NCHW])
    assert name in caught.value.where


def test_manifest_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,label\ncafé.png,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not a readable manifest[\s\S]*m\.csv"):
        open_dataset(str(tmp_path / "m.csv"), [NCHW])
