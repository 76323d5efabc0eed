import cv2
import numpy as np
import pytest
import torch
from video_deblur.synthesis import pairs as synthesize
from video_deblur.synthesis.motion_blur import ShakeConfig, compress_h264
from video_deblur.synthesis.pairs import synthesize_pairs
from video_deblur.synthesis.shot import draw_shot


def write_photo(path, height=60, width=81, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 2))
    return path


def write_video(path, num_frames=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (80, 64))
    for index in range(num_frames):
        writer.write(np.full((64, 80, 3), 10 * index, np.uint8))
    writer.release()
    return path


def frame_names(folder):
    return {
        kind: sorted(p.name for p in (folder / kind).iterdir()) for kind in ("blur", "sharp")
    }


def test_photo_folder_and_video_become_sequences_of_pairs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    write_photo(photos / "a.png")
    write_photo(photos / "b.jpg")
    video = write_video(tmp_path / "film.mp4", num_frames=3)
    seen = []
    folders = synthesize_pairs(
        [photos, video],
        tmp_path / "out",
        num_frames=4,
        seed=1,
        callback=lambda done, total: seen.append((done, total)),
    )
    assert [folder.name for folder in folders] == ["a", "b", "film"]
    names = [f"{i:06d}.png" for i in range(4)]
    assert frame_names(folders[0]) == {"blur": names, "sharp": names}
    assert frame_names(folders[2]) == {"blur": names[:3], "sharp": names[:3]}
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert cv2.imread(str(folders[0] / "blur" / names[0])).shape == (48, 64, 3)


def test_same_seed_writes_the_same_files(tmp_path):
    photo = write_photo(tmp_path / "a.png")
    results = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        (folder,) = synthesize_pairs([photo], tmp_path / name, num_frames=3, seed=seed)
        results.append([p.read_bytes() for p in sorted(folder.rglob("*.png"))])
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_high_speed_video_is_averaged(tmp_path):
    video = write_video(tmp_path / "film.mp4", num_frames=20)
    (folder,) = synthesize_pairs([video], tmp_path / "out", num_frames=5, average=9)
    assert frame_names(folder)["blur"] == ["000000.png", "000001.png"]
    sharp = cv2.imread(str(folder / "sharp" / "000001.png"))
    assert abs(sharp.mean() - 130) < 5


def test_an_even_number_has_no_middle_frame_and_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"average must be odd.*got 8"):
        synthesize_pairs([write_video(tmp_path / "film.mp4")], tmp_path / "out", average=8)
    assert not (tmp_path / "out").exists()


def test_the_camera_stays_inside_the_photo(tmp_path, monkeypatch):
    shots, render = [], synthesize.render_clips

    def rendered(source, drawn):
        shots.extend(drawn)
        return render(source, drawn)

    monkeypatch.setattr(synthesize, "render_clips", rendered)
    for seed in range(3):
        photo = write_photo(tmp_path / f"{seed}.png", 300, 400)
        synthesize_pairs([photo], tmp_path / "out", num_frames=6, seed=seed)
    assert [shot.overreach(300, 400) for shot in shots] == [0, 0, 0]
    # The first paths of these seeds do look beyond it.
    first = [
        draw_shot(6, (240, 320), ShakeConfig(), torch.Generator().manual_seed(s * 1_000_003))
        for s in range(3)
    ]
    assert max(shot.overreach(300, 400) for shot in first) > 0


def test_photos_of_equal_name_get_folders_of_their_own(tmp_path):
    paths = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        paths.append(write_photo(tmp_path / name / "a.png"))
    folders = synthesize_pairs(paths, tmp_path / "out", num_frames=1)
    assert [folder.name for folder in folders] == ["a", "a_2"]


def test_codecs_can_be_chosen(tmp_path, monkeypatch):
    calls = []

    def note(clip, crf):
        calls.append(crf)
        return compress_h264(clip, crf)

    monkeypatch.setattr(synthesize, "compress_h264", note)
    photo = write_photo(tmp_path / "a.png")
    synthesize_pairs([photo], tmp_path / "out", num_frames=2, h264_crf=30, jpeg_quality=50)
    assert calls == [30]


def test_unusable_inputs_are_named_in_one_line(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg: no such photo"):
        synthesize_pairs([tmp_path / "missing.jpg"], output)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.jpg: cannot be read as an image"):
        synthesize_pairs([broken], output)
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(ValueError, match=r"notes\.mp4: cannot be opened as a video"):
        synthesize_pairs([text], output)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no photos"):
        synthesize_pairs([tmp_path / "empty"], output)
    with pytest.raises(ValueError, match="too small"):
        synthesize_pairs([write_photo(tmp_path / "tiny.png", 30, 30)], output)


def test_existing_sequence_is_not_overwritten(tmp_path):
    photo = write_photo(tmp_path / "a.png")
    synthesize_pairs([photo], tmp_path / "out", num_frames=1)
    with pytest.raises(ValueError, match="exists already"):
        synthesize_pairs([photo], tmp_path / "out", num_frames=1)


def test_interrupted_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    photo = write_photo(tmp_path / "a.png")
    encode = cv2.imencode

    def fail_late(suffix, frame, *options):
        if len(list((tmp_path / "out").rglob("*.png"))) == 2:
            raise KeyboardInterrupt
        return encode(suffix, frame, *options)

    monkeypatch.setattr(cv2, "imencode", fail_late)
    with pytest.raises(KeyboardInterrupt):
        synthesize_pairs([photo], tmp_path / "out", num_frames=3)
    assert list((tmp_path / "out").iterdir()) == []
