"""Where outputs lie: behind links, in new folders, under long names."""

from __future__ import annotations

import errno
import os

import pytest
from video_deblur.images.folders import FrameFolderWriter
from video_deblur.video.atomic import write_file
from video_deblur.video.hidden_names import hidden_sibling, hidden_stem
from video_deblur.video.output_place import check_place, made_folder, through_links, unwritable


@pytest.mark.parametrize("letter", ["x", "ü", "\u5b57", "\udcff"], ids=["1", "2", "3", "byte"])
def test_hidden_names_stay_legal_and_apart(letter, tmp_path):
    size = len(os.fsencode(letter))
    names = [letter * (248 // size) + end for end in (".mp4", ".mov")]
    hidden = [hidden_sibling(tmp_path / name, ".part-4194304.mp4") for name in names]
    assert hidden[0] != hidden[1]
    for path in hidden:
        assert path.name.startswith(".")
        path.touch()
    assert hidden_stem("short.mp4") == ".short.mp4"


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.json", tmp_path / "link.json"
    link.symlink_to("far/target.json")
    for data in (b"first", b"second"):
        write_file(link, data)
        assert link.is_symlink()
        assert target.read_bytes() == data
    assert through_links(link).samefile(target)
    assert through_links(target) == target
    assert os.listdir(tmp_path / "far") == ["target.json"]


def test_folders_that_were_made_for_nothing_go_again(tmp_path):
    with made_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with made_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "out").touch()
    assert (tmp_path / "a" / "b" / "out").exists()
    with (
        pytest.raises(ValueError, match="cannot be a folder for the output"),
        made_folder(tmp_path / "a" / "b" / "out" / "c"),
    ):
        pass


def test_devices_and_pipes_are_no_place_for_an_output(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path / "null"):
        if not path.exists():
            path.symlink_to(os.devnull)
        with pytest.raises(ValueError, match="is a device or a pipe"):
            check_place(path)
    check_place(tmp_path / "new.mp4")


def test_what_a_killed_run_left_of_a_folder_is_removed(tmp_path):
    name = "x" * 250
    left = hidden_sibling(tmp_path / name, ".part-1")
    left.mkdir()
    (left / "a.png").touch()
    other = tmp_path / ".y.part-1"
    other.mkdir()
    FrameFolderWriter(tmp_path / name).remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [other]


def test_what_a_killed_run_left_of_a_folder_may_be_the_input(tmp_path):
    (tmp_path / ".x.part-1").mkdir()
    FrameFolderWriter(tmp_path / "x").remove_leftovers(tmp_path / ".x.part-1")
    assert [path.name for path in tmp_path.iterdir()] == [".x.part-1"]


def test_a_folder_that_is_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    expected = r"link.deep: cannot be a folder .*link is a link to gone, which does not exist"
    with pytest.raises(ValueError, match=expected), made_folder(tmp_path / "link" / "deep"):
        pass


def test_what_is_hidden_of_other_outputs_is_no_leftover(tmp_path):
    name = "a*[b]?"
    mine = tmp_path / f".{name}.part-7"
    others = [
        f".{name}.part-one.resume",
        f".{name}.part-7.part-8",
        f".{name}.part-7.lock",
        f".{name}.part-7x",
        ".aX[b]Y.part-7",
    ]
    for path in (mine, *(tmp_path / other for other in others)):
        path.mkdir()
    FrameFolderWriter(tmp_path / name).remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_only_a_full_disk_is_told_to_be_one():
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert unwritable("a.mp4", OSError(number, "")).strerror.endswith("free some space")
    said = unwritable("a.mp4", OSError(errno.EIO, "")).strerror
    assert said == "a.mp4: could not be written (Input/output error), choose another output"
