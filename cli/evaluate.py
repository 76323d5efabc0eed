"""The `evaluate` command: restore sequences and measure them against their sharp frames."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_engine_options, engine_options_given, load_engine
from .side_files import check_side_file, engine_files, named_files, write_json

if TYPE_CHECKING:
    from ..evaluation.methods import Method


def add_evaluate(commands: Any) -> None:
    """Add the parser of `evaluate`."""
    parser = commands.add_parser("evaluate", help="measure against sharp frames")
    parser.add_argument("--dataset", help="pairs:, gopro:, gopro_gamma: or dvd:PATH")
    parser.add_argument(
        "--method",
        default="checkpoint",
        help="checkpoint, unsharp, richardson_lucy, wiener or unsupervised_wiener",
    )
    parser.add_argument(
        "--pred",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="folder of results <sequence>/<frame> to measure; with --report-table it may be "
        "repeated",
    )
    parser.add_argument(
        "--report-table",
        metavar="TABLE",
        help="gopro or dvd: print what a paper reports there above the results of --pred",
    )
    parser.add_argument(
        "--sharp-input",
        action="store_true",
        help="restore the sharp frames: PSNR against them is what harm is done",
    )
    parser.add_argument(
        "--plain-decode",
        action="store_true",
        help="decode without the blurry frames, as ComfyUI's VAE Decode does",
    )
    parser.add_argument(
        "--metrics",
        default="psnr,ssim",
        help="comma-separated: psnr, ssim, lpips_alex, lpips_vgg, lpips_squeeze, niqe, "
        "warping, warping_lai, high_frequency",
    )
    parser.add_argument(
        "--lpips-weights",
        action="append",
        default=[],
        metavar="FILE",
        help="torchvision's weights of an LPIPS network; may be repeated",
    )
    parser.add_argument(
        "--protocol",
        default="rgb8",
        help="rgb8, vrt, shift_net, cdvd_tsp, pvdnet_unaligned or bsstnet",
    )
    add_engine_options(parser)
    parser.add_argument("--json", dest="json_path", help="write all figures to this file")
    parser.add_argument("--page", help="write an HTML page with crops and error maps")
    parser.add_argument(
        "--save",
        metavar="FOLDER",
        help="write restored frames as FOLDER/<sequence>/<frame>.png",
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from ..evaluation.metrics import build_metrics
    from ..evaluation.page import Page
    from ..evaluation.protocols import find_protocol
    from ..evaluation.report import (
        MeasuredSequence,
        check_predictions,
        evaluate_sequences,
        with_sharp_input,
        write_predictions,
    )
    from ..evaluation.table import MEANS, column_groups, header, row
    from ..images.datasets import load_dataset

    _check_side_files(args)
    if args.report_table:
        _report_table(args)
        return
    if not args.dataset:
        raise ValueError("--dataset names what to measure on; give one")
    protocol = find_protocol(args.protocol)
    metrics = build_metrics(args.metrics.split(","), protocol, args.lpips_weights)
    page = Page(args.page) if args.page else None
    sequences = load_dataset(args.dataset, "test")
    if args.sharp_input:
        sequences = with_sharp_input(sequences)
    if args.save:
        check_predictions(args.save, sequences)
        args.interrupted = f"the sequences that were finished are kept in {args.save}"
    method = _evaluated_method(args)
    groups = column_groups(metrics, sharp_input=args.sharp_input)
    print(header(groups))

    def show(measured: MeasuredSequence) -> None:
        print(row(measured.name, measured.figures["mean"], groups), flush=True)
        if args.save:
            write_predictions(args.save, measured)
        if page is not None:
            page.add(measured)

    results = evaluate_sequences(
        sequences, method.restore, show, metrics=metrics, protocol=protocol
    )
    for key, label in MEANS.items():
        if key in results:
            print(row(label, results[key], groups))
    described = {"dataset": args.dataset, "sharp_input": args.sharp_input, **method.described}
    report = {**described, **results}
    write_json(args.json_path, report)
    if page is not None:
        page.write(report, groups)


def _report_table(args: argparse.Namespace) -> None:
    """Print a paper's table with results below it."""
    from ..evaluation.metrics import build_metrics
    from ..evaluation.protocols import find_protocol
    from ..evaluation.published import find_table
    from ..evaluation.report_table import TablePage, measure_results, named_folder, table_text
    from ..images.datasets import load_dataset

    table, protocol = find_table(args.report_table), find_protocol(args.protocol)
    others = args.sharp_input or args.plain_decode or args.save or args.method != "checkpoint"
    if others or engine_options_given(args):
        raise ValueError(
            "--report-table restores nothing, it measures folders of results: leave out "
            "--method, --sharp-input, --plain-decode, --save, --checkpoint and its options; "
            "restore by `video-deblur evaluate --dataset ... --save FOLDER` before, and name "
            "the folder by --pred NAME=FOLDER"
        )
    if args.dataset and not args.pred:
        raise ValueError(
            "--dataset: with --report-table it is what results are measured on, and none is "
            "named; give --pred NAME=FOLDER"
        )
    if args.pred and not args.dataset:
        raise ValueError("--dataset names what the results of --pred are measured on; give one")
    page = TablePage(path=Path(args.page)) if args.page else None
    folders = [named_folder(text) for text in args.pred]
    metrics = build_metrics(args.metrics.split(","), protocol, args.lpips_weights)
    sequences = load_dataset(args.dataset, "test") if folders else []
    results = measure_results(
        folders, sequences, metrics, protocol, None if page is None else page.add
    )
    print(table_text(table, results, protocol, args.dataset))
    report = {
        "dataset": args.dataset,
        "published": dataclasses.asdict(table),
        "results": {result.name: result.report for result in results},
    }
    write_json(args.json_path, report)
    if page is not None:
        page.write(table, results, protocol, args.dataset)


def _check_side_files(args: argparse.Namespace) -> None:
    """Find before any work what keeps report and page from being written."""
    data = args.dataset and args.dataset.partition(":")[2]
    taken = engine_files(args) + named_files(
        ("the data set", data),
        ("the restored frames", args.save),
        *(("the results", text) for text in args.pred),
        *(("the results", text.partition("=")[2] or None) for text in args.pred),
        *(("the weights", name) for name in args.lpips_weights),
    )
    page = named_files(("the page", args.page))
    check_side_file("--json", args.json_path, taken + page)
    check_side_file("--page", args.page, taken)


def _evaluated_method(args: argparse.Namespace) -> Method:
    from ..evaluation.methods import baseline_method, checkpoint_method, predictions_method
    from ..evaluation.report_table import named_folder

    if args.pred:
        if len(args.pred) > 1:
            raise ValueError("--pred: several folders are for --report-table; name one")
        if args.sharp_input or args.method != "checkpoint":
            raise ValueError("--pred is measured as it is: leave out --method, --sharp-input")
        return predictions_method(named_folder(args.pred[0])[1])
    if args.method != "checkpoint":
        return baseline_method(args.method)
    deblurrer, settings = load_engine(args)
    return checkpoint_method(
        deblurrer, settings, name=str(args.checkpoint), plain_decode=args.plain_decode
    )
