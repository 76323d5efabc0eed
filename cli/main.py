"""The `video-deblur` command: builds the parser, sets up logging, and reports errors.

Exit code 0 only on success; 2 for wrong usage or input, with one line on stderr.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .batch import add_batch
from .convert import add_convert
from .demo import add_demo
from .evaluate import add_evaluate
from .info import add_info
from .options import ran_out_of_memory
from .priors import add_priors
from .progress import cleared_line, end_progress_line
from .run import add_run
from .synthesize import add_synthesize
from .train import add_train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    _share_processors()
    parser = build_parser()
    args = parser.parse_args(arguments)
    form = f"{cleared_line()}%(levelname)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be bytes that are no text; they are printed as they are.
        sys.stdout.reconfigure(errors="surrogateescape")
    # A polite kill unwinds like Ctrl-C, so that nothing half-written stays behind.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"video-deblur: interrupted, {args.interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141
        line = _one_line(error)
        if line is None:
            raise
        end_progress_line()
        print(f"video-deblur: {line}", file=sys.stderr)
        return 2
    return 0


def _share_processors() -> None:
    """Have threads of torch that wait for another sleep soon, rather than spin.

    Where other programs compute too, a thread that spins holds the processor that the other
    one waits for. Read by GNU's OpenMP as torch is loaded; others ignore it.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _nobody_reads() -> bool:
    """Tell whether the reader of stdout, such as `head`, has gone; end it quietly then."""
    if not hasattr(select, "poll"):
        return False
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    if not pipe.poll(0):
        return False
    # Else Python would try to write what is left as it ends, and say that it cannot.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="video-deblur", description="Remove motion blur from video."
    )
    parser.add_argument("--version", action="version", version=f"video-deblur {__version__}")
    parser.set_defaults(interrupted="nothing was written")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_demo(commands)
    add_run(commands)
    add_batch(commands)
    add_evaluate(commands)
    add_synthesize(commands)
    add_train(commands)
    add_convert(commands)
    add_info(commands)
    add_priors(commands)
    return parser


def _one_line(error: Exception) -> str | None:
    """Return what to tell the user; None for a fault of ours, which needs a traceback."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        # Python writes "[Errno 28]" before it.
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, (ValueError, OSError, FloatingPointError)):
        if not ran_out_of_memory(error):
            return None
        text = f"out of memory: end other programs or use another --device ({text})"
    return " ".join(text.split())


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
