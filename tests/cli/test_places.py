"""Names and places that are legal, odd or of no use, as the command meets them."""

from __future__ import annotations

import os
import subprocess
import unicodedata
from fractions import Fraction
from pathlib import Path

import pytest
from video_deblur.video.reader import VideoReader

from ..images import image_files
from .command import command, decoded, refused, run, write_clip


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 3, 64, 48)


@pytest.fixture
def restore(checkpoint, capsys):
    """Run the command in this process; returns its exit code and what it said."""

    def run_command(source, output, *more):
        options = ["--checkpoint", checkpoint, "--strength", 0, *more]
        return run(capsys, "run", "-o", output, *options, "--", source)

    return run_command


NAMES = [
    "x" * 246,
    "\u5b57" * 82,
    "two\nlines %d %s",
    "-dash",
    unicodedata.normalize("NFD", "éü"),
]


@pytest.mark.parametrize("name", NAMES, ids=["long", "wide", "lines", "dash", "nfd"])
def test_legal_names_are_taken_for_every_kind(name, clip, restore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rename(clip, f"{name}.mp4")
    Path(f"{name}.png").write_bytes(image_files.png(image_files.picture()))
    os.mkdir(name)
    Path(name, f"{name}.jpg").write_bytes(image_files.jpeg(image_files.picture()))
    for source, output in (
        (f"{name}.mp4", f"out/{name}.mp4"),
        (f"{name}.png", f"out/{name}.png"),
        (name, f"out/{name}"),
        (f"{name}.mp4", f"more/{name}"),
    ):
        assert restore(source, output, "--resume")[0] == 0
        assert os.path.exists(output)
    # Nothing hidden is left.
    assert sorted(os.listdir("out")) == sorted([f"{name}.mp4", f"{name}.png", name])


@pytest.mark.parametrize("suffix", [b".mp4", b".png", b""], ids=["video", "photo", "folder"])
def test_a_name_that_is_no_text_is_printed_as_its_bytes(suffix, clip, checkpoint, tmp_path):
    # In a process of its own: what pytest captures must be text.
    source = os.fsencode(tmp_path) + b"/bad\xff" + suffix
    photo = image_files.png(image_files.picture())
    if suffix == b".png":
        Path(os.fsdecode(source)).write_bytes(photo)
    elif suffix:
        os.rename(clip, source)
    else:
        os.mkdir(source)
        Path(os.fsdecode(source + b"/a\xfe.png")).write_bytes(photo)
    output = source.replace(b"bad", b"out")
    options = [*map(os.fsencode, command("run")), source, b"-o", output, b"--resume"]
    options += [b"--checkpoint", os.fsencode(checkpoint), b"--strength", b"0"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(options, capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(output + b": ")


def test_a_link_as_output_is_written_through(clip, restore, tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.mp4"
    link.symlink_to("far/target.mp4")
    for options in ([], ["--resume"]):
        assert restore(clip, link, *options)[0] == 0
        assert link.is_symlink()
        assert len(decoded(tmp_path / "far" / "target.mp4")) == 3
    assert os.listdir(tmp_path / "far") == ["target.mp4"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_another_name_of_the_input_is_not_written(link, clip, checkpoint, tmp_path, capsys):
    other = tmp_path / "other.mp4"
    link(clip, other)
    before = clip.read_bytes()
    for pair in ((clip, other), (other, clip)):
        line = refused(capsys, "run", pair[0], "-o", pair[1], "--checkpoint", checkpoint)
        assert "is the input itself" in line
    assert clip.read_bytes() == before


def test_folders_are_made_only_for_an_input_that_is_good(clip, checkpoint, tmp_path, capsys):
    report = tmp_path / "reports" / "new" / "report.json"
    output = tmp_path / "new" / "deep" / "out.mp4"
    options = ["--checkpoint", checkpoint, "--json", report]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    refused(capsys, "run", bad, "-o", output, *options)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == []
    assert run(capsys, "run", clip, "-o", output, *options)[0] == 0
    assert len(decoded(output)) == 3
    assert report.exists()


def test_pipes_and_devices_are_refused_in_one_line(clip, checkpoint, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in ("-", pipe, "/dev/zero"):
        line = refused(
            capsys, "run", source, "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint
        )
        assert "an input is read more than once; save it as a file first" in line
    for output in (pipe, "/dev/null"):
        line = refused(capsys, "run", clip, "-o", output, "--checkpoint", checkpoint)
        assert "is a device or a pipe" in line


def test_the_input_of_a_shell_pipe_is_refused(clip, checkpoint, tmp_path):
    for source in ("-", "/dev/stdin"):
        done = subprocess.run(
            command("run", source, "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint),
            input=clip.read_bytes(),
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 2
        assert done.stderr.count(b"\n") == 1
        assert b"read more than once" in done.stderr


def test_a_rate_that_is_no_number_is_wrong_usage(clip, checkpoint, tmp_path, capsys):
    for text in ("1/0", "fast", "nan", "inf", "1e999"):
        with pytest.raises(SystemExit) as caught:
            run(capsys, "run", clip, "-o", tmp_path / "o.mp4", "--fps", text)
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("23.976023976", Fraction(24000, 1001)),
        ("59.94005994005994", Fraction(60000, 1001)),
        ("23.976", Fraction(2997, 125)),
        ("12.5", Fraction(25, 2)),
        ("30000/1001", Fraction(30000, 1001)),
    ],
)
def test_a_rate_of_many_digits_is_the_fraction_that_it_stands_for(
    text, rate, restore, tmp_path
):
    (tmp_path / "in").mkdir()
    for index in range(3):
        photo = image_files.png(image_files.picture())
        (tmp_path / "in" / f"{index}.png").write_bytes(photo)
    output = tmp_path / "out.mp4"
    assert restore(tmp_path / "in", output, "--fps", text)[0] == 0
    with VideoReader(output) as reader:
        assert reader.info.average_rate == rate


def test_a_rate_that_no_file_can_store_is_refused(checkpoint, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    photo = image_files.png(image_files.picture())
    (tmp_path / "in" / "0.png").write_bytes(photo)
    for text in ("23976023976/1000000000", "1e-9", "1e12"):
        options = ["-o", tmp_path / "o.mp4", "--checkpoint", checkpoint, "--fps", text]
        assert "fps" in refused(capsys, "run", tmp_path / "in", *options)
