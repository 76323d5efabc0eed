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
    def rows(accuracy, loss):
        values = {"accuracy_pairs": accuracy, "discriminator_loss": loss, "gain_db": 0.5}
        return [{"step": step, **values} for step in range(20)]

    assert balance_warnings(rows(1.0, 0.05)) == []
    # Half of the pairs with a margin, half against it: no guess.
    assert balance_warnings(rows(0.5, 0.65)) == []
    for loss in (0.693, 0.8):
        (warning,) = balance_warnings(rows(0.5, loss))
        assert warning.startswith(
            f"The discriminator guesses, or is fooled: of late its loss is {loss}"
        )


def test_a_discriminator_that_guesses_is_warned_of():
    (warning,) = balance_warnings(rows_of([1.0] * 20, [0.0] * 20, [0.5] * 20))
    assert warning.startswith("The discriminator guesses: of late it tells 50%")


@pytest.mark.parametrize("name", ["gain_db", "validation_gain_db"])
def test_restored_frames_that_move_away_are_warned_of(name):
    gain = [0.2, 0.4, 0.6, 0.6, 0.6, 0.6] + [0.6 - 0.1 * i for i in range(14)]
    (warning,) = balance_warnings(rows_of(STEADY, STEADY, gain, name))
    assert "fell by 1.2 dB from its best" in warning


def test_a_few_validations_do_not_stand_for_all_lines():
    rows = rows_of(STEADY, STEADY, [3 - 0.2 * line for line in range(20)])
    for line in (5, 10, 15):
        rows[line]["validation_gain_db"] = 0.5
    (warning,) = balance_warnings(rows)
    assert "The gain fell by 3.2 dB" in warning


def test_a_few_lines_say_nothing():
    assert balance_warnings(rows_of([1.0] * 4, [1.0] * 4, [0.5] * 4)) == []


def test_single_noisy_lines_are_no_collapse():
    gain = [0.5] * 20
    gain[5] = 4.0
    assert balance_warnings(rows_of(STEADY, STEADY, gain)) == []
