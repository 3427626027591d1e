"""Export a trained model, or other weights for a known architecture, to ONNX, and check the file against torch."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from video_module import cli
from video_module.config import DEFAULT_OPSET, OPSETS, PRECISIONS, ExportGates
from video_module.errors import InputError
from video_module.models.registry import MODELS, NO_WEIGHTS, get_spec

if TYPE_CHECKING:
    from video_module.engine.checkpoint import Checkpoint

# Weights from elsewhere may need any clip setting, so there are more flags for them here than in train_model.py.
_CLIP_FLAGS = (*cli.CLIP_FLAGS, "resize", "mean", "std")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="model to export, X.pth from train_model.py")
    parser.add_argument(
        "--model_type", choices=list(MODELS), help="architecture to export with --weights, in place of --checkpoint"
    )
    parser.add_argument(
        "--weights", help="for --model_type: name of published weights, or a file (default: the first published)"
    )
    parser.add_argument(
        "--obj_names", type=Path, help="classes for a file of --weights, one per line, in the order of its outputs"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32"],
        help="precisions to export, one file each (default: fp32)",
    )
    parser.add_argument(
        "--opset", type=int, choices=OPSETS, default=DEFAULT_OPSET, help="version of the ONNX operator set"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="folder for X.onnx and X_export.json (default: the folder of the checkpoint, or .)",
    )
    parser.add_argument(
        "--verify_dir",
        type=Path,
        help="videos to check the files with, one subfolder per class (default: synthetic clips)",
    )
    parser.add_argument(
        "--num_verify_clips",
        type=cli.positive_int,
        help="number of clips for the check (default: 200; 32 for models above 10^9 multiply-adds)",
    )
    clip = cli.add_clip_arguments(parser)
    clip.add_argument("--resize", type=cli.positive_int, help="short side before the crop, in pixels")
    for name in ("mean", "std"):
        clip.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{name} per colour channel, for values in 0..1",
        )
    parser.add_argument("--num_threads", type=cli.positive_int, help="CPU cores for measuring latency (default: all)")
    gates = parser.add_argument_group("gates (a file that fails is deleted)")
    cli.add_config_arguments(gates, ExportGates)
    parser.add_argument(
        "--describe", type=Path, metavar="FILE", help="print what a model file, .onnx or .pth, records, and exit"
    )
    args = parser.parse_args(argv)
    if sum(value is not None for value in (args.checkpoint, args.model_type, args.describe)) != 1:
        parser.error("give one of --checkpoint, --model_type and --describe")
    for name in ("weights", "obj_names", *_CLIP_FLAGS):
        if getattr(args, name) is not None and not args.model_type:
            parser.error(f"--{name} requires --model_type")
    return args


def read_weights(args: argparse.Namespace) -> "Checkpoint":
    """Load the weights that --model_type and its related flags select. Raises InputError if the flags conflict."""
    from video_module.data.labels import read_class_names
    from video_module.engine.checkpoint import published_checkpoint

    spec = get_spec(args.model_type)
    weights = args.weights or spec.default_weights
    if weights == NO_WEIGHTS:
        raise InputError(f"{spec.name}: no weights to export; pass a file with --weights and --obj_names")
    is_published = weights in spec.weights
    if is_published and args.obj_names:
        raise InputError(f"--obj_names {args.obj_names} requires a file as --weights, got {weights}")
    if not is_published and not args.obj_names and Path(weights).is_file():
        raise InputError(
            f"--weights {weights}: pass its classes with --obj_names: a file with one per line, in the order of its "
            "outputs"
        )
    return published_checkpoint(
        spec.name,
        weights,
        class_names=read_class_names(args.obj_names) if args.obj_names else None,
        clip=spec.clip_config(**{name: getattr(args, name) for name in _CLIP_FLAGS}),
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    if args.describe:
        if args.describe.suffix.lower() == ".pth":
            from video_module.engine.checkpoint import describe
        else:
            from video_module.inference.predictor import describe

        print(json.dumps(describe(args.describe), indent=1, ensure_ascii=False))
        return
    from video_module.files import check_model_file, check_output, check_outputs, write_json

    if args.checkpoint:
        check_model_file(args.checkpoint)
    from video_module.engine.checkpoint import load_checkpoint
    from video_module.inference import export
    from video_module.inference.verification import load_clips

    gates = cli.read_config(args, ExportGates)
    if args.checkpoint:
        checkpoint, name, folder = load_checkpoint(args.checkpoint), args.checkpoint.stem, args.checkpoint.parent
    else:
        checkpoint, folder = read_weights(args), Path()
        name = Path(args.weights).stem if args.obj_names else args.model_type
    stem = (args.output_dir or folder) / name
    check_output(stem.parent, folder=True)
    report_path = stem.with_name(f"{name}_export.json")
    written = [*(export.onnx_path(stem, precision) for precision in ("fp32", *args.precision)), report_path]
    check_outputs([("--output_dir", path) for path in written], [("--checkpoint", args.checkpoint)])
    num_clips = args.num_verify_clips or export.default_num_clips(checkpoint)
    clips = load_clips(checkpoint.clip, num_clips, class_names=checkpoint.class_names, folder=args.verify_dir)
    print(
        f"exporting {checkpoint.model}, {len(checkpoint.class_names)} classes; checking against torch on "
        f"{clips.summary()}"
    )
    reports = export.export_files(
        checkpoint, stem, precisions=args.precision, clips=clips, gates=gates, opset=args.opset
    )
    reports = export.measure_latencies(reports, clips.clips, num_threads=args.num_threads)
    print(export.format_reports(reports))
    if len(clips.clips) < num_clips:
        print(
            f"  the check found only {len(clips.clips)} of {num_clips} different clips; longer or more videos give more"
        )
    if reports[0].agreement.num_predicted_classes < min(2, len(checkpoint.class_names)):
        print("  torch predicts the same class for all clips, so agreement says little")
    for path in export.find_outdated_files(stem, reports, checkpoint):
        print(f"  {path} holds different weights; export it again, or delete it")
    write_json(
        report_path,
        export.report_dict(
            checkpoint, reports, clips=clips, gates=gates, opset=args.opset, num_threads=args.num_threads
        ),
    )
    cli.show_written([*(report.path for report in reports if not report.failure), report_path])
    if failed := [report for report in reports if report.failure]:
        raise InputError("; ".join(f"{report.path}: {report.failure}; deleted" for report in failed))


if __name__ == "__main__":
    cli.run(main)
