"""What the log of an adversarial stage warns of: two networks that have lost their balance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

_WINNING = 0.95
"""Share of frames told right above which the discriminator wins."""
_GUESSING = 0.53
"""Share below which it tells nothing apart."""
_GUESS_OF_PAIRS = 0.99 * math.log(2)
"""Its loss from which on it tells nothing of pairs apart. The share says little of them: it is
a half as well where every frame that is too soft is told, and none that is too crisp."""
_FEWEST_LINES = 5
"""A log of fewer lines says nothing yet."""
_LOST_DB = 1.0
"""Fall of the gain, in dB, from its best, that counts as a collapse."""


def balance_warnings(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Return what is to be said about a stage, most of all its last fifth.

    Args:
        rows: Lines of a log by rising `step`; empty of warnings where no discriminator played.
    """
    told = {kind: _values(rows, f"accuracy_{kind}") for kind in ("sharp", "restored", "pairs")}
    told = {kind: values for kind, values in told.items() if len(values) >= _FEWEST_LINES}
    if not told:
        return []
    warnings = _warnings_of_pairs(rows) if "pairs" in told else _warnings_of_frames(told)
    gain = _values(rows, "validation_gain_db")
    if len(gain) < _FEWEST_LINES:
        gain = _values(rows, "gain_db")
    if len(gain) >= _FEWEST_LINES and (lost := _lost(gain)) >= _LOST_DB:
        warnings.append(
            f"The gain fell by {lost:.1f} dB from its best: the restored frames move away "
            "from the sharp ones, as when a network collapses to what fools the "
            "discriminator. Lower adversarial_weight."
        )
    return warnings


def _warnings_of_pairs(rows: Sequence[Mapping[str, float]]) -> list[str]:
    # It may win: how much sharper one is still says what to change.
    losses = _values(rows, "discriminator_loss")
    if len(losses) < _FEWEST_LINES or (loss := _late(losses)) < _GUESS_OF_PAIRS:
        return []
    return [
        f"The discriminator guesses, or is fooled: of late its loss is {loss:.3f}, a guess's "
        f"{math.log(2):.3f}, so that it teaches nothing. Raise discriminator_rate, or lower "
        "adversarial_weight."
    ]


def _warnings_of_frames(told: Mapping[str, np.ndarray]) -> list[str]:
    accuracy = float(np.mean([_late(values) for values in told.values()]))
    warnings = []
    if accuracy >= _WINNING:
        warnings.append(
            f"The discriminator wins: of late it tells {accuracy:.0%} of the frames right, so "
            "that the network learns little from it. Lower discriminator_rate, or raise "
            "r1_weight."
        )
    elif accuracy <= _GUESSING:
        warnings.append(
            f"The discriminator guesses: of late it tells {accuracy:.0%} of the frames right, "
            "so that its loss means nothing. Raise discriminator_rate, or lower "
            "adversarial_weight."
        )
    return warnings


def _values(rows: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    values = [row.get(name, math.nan) for row in rows]
    return np.array([value for value in values if math.isfinite(value)])


def _late(values: np.ndarray) -> float:
    """Average the last fifth."""
    return float(values[-max(1, len(values) // 5) :].mean())


def _lost(values: np.ndarray) -> float:
    """Return how far the last fifth is below the best fifth."""
    width = max(1, len(values) // 5)
    means = np.convolve(values, np.full(width, 1 / width), mode="valid")
    return float(means.max() - _late(values))
