"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxopt.core.atomic import check_writable, pending, write_atomic
from onnxopt.errors import OutputError


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture(params=["unnamed", "hidden sibling"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write to, with O_TMPFILE and as on systems without."""
    if request.param == "hidden sibling":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("this system has no O_TMPFILE")
    return tmp_path


def test_new_and_old_files(folder: Path) -> None:
    for payload in (b"one", b"", b"three" * 10_000):
        write_atomic(folder / "f", payload)
        assert (folder / "f").read_bytes() == payload
        assert names(folder) == ["f"]


def test_the_mode_follows_the_umask(folder: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(folder / "f", b"x")
    finally:
        os.umask(old)
    assert (folder / "f").stat().st_mode & 0o777 == 0o640


def test_what_is_not_committed_is_gone(folder: Path) -> None:
    (folder / "f").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), pending(folder) as draft:
        draft.file.write(b"half")
        raise KeyboardInterrupt
    with pending(folder) as draft:
        draft.file.write(b"forgotten")
    assert names(folder) == ["f"] and (folder / "f").read_bytes() == b"old"


def test_readers_of_the_old_file_keep_it(folder: Path) -> None:
    (folder / "f").write_bytes(b"old")
    with (folder / "f").open("rb") as reader:
        write_atomic(folder / "f", b"new")
        assert reader.read() == b"old"
    assert (folder / "f").read_bytes() == b"new"


def test_a_hard_link_of_the_old_file_keeps_its_content(folder: Path) -> None:
    (folder / "f").write_bytes(b"old")
    (folder / "twin").hardlink_to(folder / "f")
    write_atomic(folder / "f", b"new")
    assert (folder / "twin").read_bytes() == b"old"


def test_a_dangling_link_makes_its_target(folder: Path) -> None:
    (folder / "link").symlink_to("target")
    write_atomic(folder / "link", b"x")
    assert (folder / "link").is_symlink() and (folder / "target").read_bytes() == b"x"


@pytest.mark.parametrize("errno_", [28, 27, 122])
def test_a_full_disk_says_what_helps(errno_: int, folder: Path) -> None:
    with pytest.raises(OutputError) as caught, pending(folder):
        raise OSError(errno_, os.strerror(errno_))
    assert os.strerror(errno_) in caught.value.what and "space" in caught.value.fix
    assert names(folder) == []


def test_checking_leaves_nothing_behind(folder: Path) -> None:
    assert check_writable(folder / "f") == folder / "f"
    assert names(folder) == []


@pytest.mark.parametrize("path", ["nowhere/f", "", "loop", "/proc/f", "/dev/null", "file/f"])
def test_places_that_cannot_be_written(path: str, folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()
    with pytest.raises(OutputError):
        check_writable(folder / path)


def test_other_errors_are_not_about_space(folder: Path) -> None:
    with pytest.raises(OutputError) as caught, pending(folder):
        raise PermissionError(13, "Permission denied")
    assert "permissions" in caught.value.fix
