"""What `run --adapt` does before a clip is restored."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import memory_advice
from .progress import ProgressBar, end_progress_line
from .side_files import check_side_file, engine_files, named_files

if TYPE_CHECKING:
    from ..jobs.ends import Ends
    from ..jobs.files import Resumable
    from ..restoration.adaptation.tuning import Adapted
    from ..restoration.engine import Engine
    from ..restoration.settings import RestorationSettings


def add_adaptation_options(parser: argparse.ArgumentParser) -> None:
    """Add what `run` has for a network that learns from the clip."""
    parser.add_argument(
        "--adapt",
        action="store_true",
        help="tune a copy of the network on the clip itself before it is restored; dropped "
        "where it gains less than 0.5 dB in the part of the picture held out "
        "(docs/adaptation.md)",
    )
    parser.add_argument(
        "--save-adapted",
        metavar="FILE",
        help="with --adapt: write the tuned weights as a checkpoint (.safetensors); no file is "
        "written where what was learned is dropped",
    )


class Adaptation:
    """What is learned from the clip of a run.

    Raises:
        FileNotFoundError, ValueError: If the options do not fit.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        ends: Ends,
        restoration: RestorationSettings,
    ) -> None:
        from ..restoration.adaptation.settings import AdaptationSettings

        self._args = args
        self._ends = ends
        self._source = Path(args.input)
        self._restoration = restoration
        self._settings = AdaptationSettings()
        self._not_saved: str | None = None
        self.report: dict[str, Any] = {"used": False, "gain_db": None, "seconds": 0.0}
        """What came of it, as JSON values."""

    def learn(
        self, engine: Engine, resumable: Resumable | None
    ) -> tuple[Engine, Resumable | None]:
        """Return the engine that restores, and where parts of it are kept.

        Args:
            engine: Of the checkpoint.
            resumable: Of the run; None: nothing is kept.

        Raises:
            FileNotFoundError, ValueError, OSError: If input or output cannot be used, or the
                network cannot learn.
        """
        from ..jobs.adaptation import Kept, adapt_to_file
        from ..jobs.part_store import file_identity
        from ..restoration.adaptation.tuning import with_engine

        if self._restoration.strength == 0 and self._args.save_adapted is None:
            print(f"{self._source.name}: nothing is learned, as --strength 0 gives the input")
            return engine, resumable
        self._check_ends()
        kept = None
        if resumable is not None:
            identity = {
                **resumable.identity,
                "clip": list(map(file_identity, self._ends.input_files())),
                "device": engine.device.type,
                "dtype": str(engine.dtype),
                "deinterlace": self._args.deinterlace,
            }
            kept = Kept.beside(resumable.folder, identity)
        started = time.monotonic()
        with memory_advice(self._restoration, engine.device.type, lambda: self._ends.size):
            adapted = adapt_to_file(
                engine,
                self._source,
                self._restoration,
                self._settings,
                deinterlace=self._args.deinterlace,
                kept=kept,
                callback=ProgressBar(f"learning from {self._source.name}", "steps"),
            )
        end_progress_line()
        elapsed = time.monotonic() - started
        is_used = adapted.weights is not None
        self.report = {"used": is_used, "gain_db": adapted.gain_db, "seconds": elapsed}
        print(f"{self._source.name}: {_told(is_used, adapted.gain_db)} ({elapsed:.1f} s)")
        if adapted.weights is None:
            if self._args.save_adapted is not None:
                print(f"{self._args.save_adapted}: not written, there is nothing to save")
            return engine, resumable
        if self._args.save_adapted is not None:
            self._save(adapted)
        if resumable is not None and kept is not None:
            # Parts depend on it now.
            identity = {**resumable.identity, "adaptation": kept.digest}
            resumable = dataclasses.replace(resumable, identity=identity)
        return with_engine(engine, adapted.weights), resumable

    def check_saved(self) -> None:
        """Raise OSError, after the work, if the tuned weights could not be written."""
        if self._not_saved is not None:
            raise OSError(self._not_saved)

    def _save(self, adapted: Adapted) -> None:
        from ..jobs.adaptation import save_adapted

        path = Path(self._args.save_adapted)
        clip, seed = self._source.name, self._restoration.seed
        try:
            save_adapted(path, self._args.checkpoint, adapted, clip, seed)
        except OSError as error:
            # The clip is restored all the same.
            cause = error.strerror or error
            self._not_saved = f"{path}: the tuned weights could not be written ({cause})"
        else:
            # Of parts it is said that they are kept.
            if not self._args.resume:
                self._args.interrupted = f"nothing but the tuned weights {path} was written"
        print(self._not_saved or f"{path}: the tuned weights")

    def _check_ends(self) -> None:
        """Find before the work what keeps input or output from being used."""
        # What there is to warn of is said when they are opened to be restored.
        logging.disable(logging.WARNING)
        try:
            with self._ends:
                self._ends.check_encoder()
        finally:
            logging.disable(logging.NOTSET)


def check_adaptation_options(args: argparse.Namespace) -> None:
    """Find before any work what keeps the tuned weights from being written.

    Raises:
        ValueError: If the options do not fit, or the file is none or one that the run needs.
        OSError: If its folder cannot be made or written to.
    """
    if args.save_adapted is None:
        return
    path = Path(args.save_adapted)
    if not args.adapt:
        raise ValueError(f"{path}: --save-adapted goes with --adapt")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: name a .safetensors file for the tuned weights")
    named = named_files(
        ("the input", args.input), ("the output", args.output), ("the report", args.json_path)
    )
    check_side_file("--save-adapted", args.save_adapted, engine_files(args) + named)
    if Path(args.output).resolve() in path.resolve().parents:
        raise ValueError(
            f"{path}: lies in the output {args.output}, name a file outside for --save-adapted"
        )


def _told(is_used: bool, gain_db: float | None) -> str:
    if is_used:
        return f"learned from the clip, {gain_db:+.2f} dB in the part held out"
    why = "frames took too little from one another"
    if gain_db is not None:
        why = f"{gain_db:+.2f} dB in the part held out"
    return f"learned nothing that helps ({why}), the checkpoint's own weights restore"
