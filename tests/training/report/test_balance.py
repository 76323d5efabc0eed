from __future__ import annotations

import pytest
from video_deblur.training.report.balance import balance_warnings


def rows_of(sharp, restored, gain, name="gain_db"):
    return [
        {"step": step, "accuracy_sharp": s, "accuracy_restored": r, name: g}
        for step, (s, r, g) in enumerate(zip(sharp, restored, gain, strict=True))
    ]


STEADY = [0.7] * 20


def test_two_networks_in_balance_are_not_warned_of():
    assert balance_warnings(rows_of(STEADY, STEADY, [0.5] * 20)) == []


def test_a_stage_without_a_discriminator_is_not_warned_of():
    assert balance_warnings([{"step": step, "gain_db": -step} for step in range(20)]) == []


def test_a_discriminator_that_wins_of_late_is_warned_of():
    accuracy = [0.6] * 16 + [0.96] * 4
    (warning,) = balance_warnings(rows_of(accuracy, accuracy, [0.5] * 20))
    assert warning.startswith("The discriminator wins: of late it tells 96% of the frames")
    early = accuracy[::-1]
    assert balance_warnings(rows_of(early, early, [0.5] * 20)) == []


def test_of_pairs_a_discriminator_may_tell_all_but_must_not_guess():
    def rows(accuracy):
        return [
            {"step": step, "accuracy_pairs": accuracy, "gain_db": 0.5} for step in range(20)
        ]

    assert balance_warnings(rows(1.0)) == []
    (warning,) = balance_warnings(rows(0.5))
    assert warning.startswith("The discriminator guesses: of late it tells 50%")


def test_a_discriminator_that_guesses_is_warned_of():
    (warning,) = balance_warnings(rows_of([1.0] * 20, [0.0] * 20, [0.5] * 20))
    assert warning.startswith("The discriminator guesses: of late it tells 50%")


@pytest.mark.parametrize("name", ["gain_db", "validation_gain_db"])
def test_restored_frames_that_move_away_are_warned_of(name):
    gain = [0.2, 0.4, 0.6, 0.6, 0.6, 0.6] + [0.6 - 0.1 * i for i in range(14)]
    (warning,) = balance_warnings(rows_of(STEADY, STEADY, gain, name))
    assert "fell by 1.2 dB from its best" in warning


def test_a_few_lines_say_nothing():
    assert balance_warnings(rows_of([1.0] * 4, [1.0] * 4, [0.5] * 4)) == []


def test_single_noisy_lines_are_no_collapse():
    gain = [0.5] * 20
    gain[5] = 4.0
    assert balance_warnings(rows_of(STEADY, STEADY, gain)) == []
