from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from video_deblur.images.folders import read_image
from video_deblur.training.report import pictures
from video_deblur.training.report.pictures import picture_grid, write_picture


def frame(seed, height=96, width=96):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@pytest.fixture
def written(monkeypatch):
    """The captions, as they are drawn."""
    texts = []
    draw = cv2.putText

    def note(image, text, *rest):
        texts.append(text)
        return draw(image, text, *rest)

    monkeypatch.setattr(pictures.cv2, "putText", note)
    return texts


def find(grid, pixels):
    """Return the top and left where `pixels` occurs in `grid`."""
    match = cv2.matchTemplate(grid, pixels, cv2.TM_SQDIFF)
    _, _, (left, top), _ = cv2.minMaxLoc(match)
    height, width = pixels.shape[:2]
    assert np.array_equal(grid[top : top + height, left : left + width], pixels)
    return top, left


def test_small_frames_are_enlarged_by_a_whole_factor_and_stay_in_their_column():
    frames = [frame(seed, 48, 96) for seed in range(3)]
    grid = picture_grid(*([f] for f in frames), labels=["street"])
    places = []
    for pixels in frames:
        shown = np.floor(pixels * 255 + 0.5).astype(np.uint8)
        places.append(find(grid, shown.repeat(2, axis=0).repeat(2, axis=1)))
    assert len({top for top, _ in places}) == 1
    assert places[0][1] + 192 < places[1][1] < places[1][1] + 192 < places[2][1]
    assert grid.dtype == np.uint8


def test_large_frames_are_shown_pixel_by_pixel():
    frames = [frame(seed, 40, 256) for seed in range(3)]
    grid = picture_grid(*([f] for f in frames))
    for pixels in frames:
        find(grid, np.floor(pixels * 255 + 0.5).astype(np.uint8))


def test_captions_give_the_psnr_of_both_and_the_gain(written):
    sharp = frame(0)
    blurry, restored = (np.clip(sharp + d * (frame(1) - 0.5), 0, 1) for d in (0.2, 0.1))
    picture_grid([blurry], [restored], [sharp], ["street"])
    before, after = (
        peak_signal_noise_ratio(*(np.round(x * 255).astype(np.uint8) for x in (sharp, pred)))
        for pred in (blurry, restored)
    )
    assert written == [
        *("blurry", "restored", "sharp"),
        f"{before:.2f} dB",
        f"{after:.2f} dB  {after - before:+.2f}",
        "street",
    ]


def test_gain_and_loss_have_their_own_colours():
    sharp, blurry = frame(0), frame(0) * 0.9

    def has(grid, color):
        return bool((grid == color).all(axis=-1).any())

    better = picture_grid([blurry], [sharp * 0.95], [sharp])[-24:]
    worse = picture_grid([blurry], [sharp * 0.85], [sharp])[-24:]
    assert (has(better, pictures._BETTER), has(better, pictures._WORSE)) == (True, False)
    assert (has(worse, pictures._BETTER), has(worse, pictures._WORSE)) == (False, True)


def test_a_clip_that_is_sharp_already_has_no_gain(written):
    picture_grid([frame(0)], [np.clip(frame(0) + 0.1, 0, 1)], [frame(0)])
    assert written[3] == "equal to sharp"
    assert written[4].endswith(" dB")


def test_values_that_are_not_finite_are_named_and_shown_black(written):
    broken = np.full((96, 96, 3), np.nan, np.float32)
    grid = picture_grid([frame(0)], [broken], [frame(1)])
    assert written[4] == "not finite"
    find(grid, np.zeros((192, 192, 3), np.uint8))


def test_clips_of_different_sizes_share_columns_and_long_names_are_cut(written):
    sizes = [(96, 64), (64, 256)]
    clips = [frame(i, *size) for i, size in enumerate(sizes)]
    name = "a_sequence_with_a_name_that_no_column_of_this_picture_can_hold"
    grid = picture_grid(clips, clips, clips, [name, "b"])
    assert grid.shape[1] == 3 * 256 + 4 * 6
    (cut,) = (text for text in written if text.startswith("a_seq"))
    assert cut.endswith("...")
    assert name.startswith(cut[:-3])


def test_bad_input_is_named():
    one = [frame(0)]
    with pytest.raises(ValueError, match="at least one clip"):
        picture_grid([], [], [])
    with pytest.raises(ValueError, match=r"one length, got 1, 2, 1, 1"):
        picture_grid(one, one * 2, one)
    with pytest.raises(ValueError, match=r"street: .*one size, got \[96, 96, 3\], \[8, 8, 3\]"):
        picture_grid(one, [frame(0, 8, 8)], one, ["street"])
    with pytest.raises(ValueError, match=r"clip 0: frames must be \[H, W, 3\]"):
        picture_grid([np.zeros((4, 4))], [np.zeros((4, 4))], [np.zeros((4, 4))])


def test_a_picture_is_written_whole_under_its_name(tmp_path):
    pixels = (frame(0) * 255).astype(np.uint8)
    path = tmp_path / "pictures" / "joint_000100.png"
    write_picture(path, pixels)
    assert np.array_equal(read_image(path), pixels)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(ValueError, match=r"uint8, got \[96, 96, 3\] float32"):
        write_picture(path, frame(0))
    with pytest.raises(ValueError, match=r"name the file \.png"):
        write_picture(tmp_path / "grid.jpg", pixels)
