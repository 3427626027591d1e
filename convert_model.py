"""Export a model to ONNX and prove that the file computes what torch does."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from video_module import cli
from video_module.models.registry import MODELS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="X.pth of train_model.py")
    parser.add_argument(
        "--model_type", choices=list(MODELS), help="without --checkpoint: export published weights of this model"
    )
    parser.add_argument("--weights", help="with --model_type: which (default: the model's first)")
    parser.add_argument("--precision", nargs="+", choices=("fp32",), default=["fp32"], help="of the exported file")
    parser.add_argument(
        "--output_dir", type=Path, help="where X.onnx and X_export.json go (default: beside the checkpoint, or .)"
    )
    parser.add_argument("--verify_dir", type=Path, help="videos to compare on (default: drawn clips)")
    parser.add_argument("--num_verify_clips", type=cli.positive_int, default=4, help="clips compared with torch")
    parser.add_argument("--describe", type=Path, metavar="X.onnx", help="print what a file takes and gives, and stop")
    args = parser.parse_args(argv)
    if sum(value is not None for value in (args.checkpoint, args.model_type, args.describe)) != 1:
        parser.error("give one of --checkpoint, --model_type and --describe")
    if args.weights and not args.model_type:
        parser.error("--weights goes with --model_type")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.describe:
        from video_module.inference.predictor import describe

        print(json.dumps(describe(args.describe), indent=1, ensure_ascii=False))
        return
    from video_module.engine.checkpoint import load_checkpoint, published_checkpoint
    from video_module.files import write_json
    from video_module.inference.export import BATCH_SIZES, export_onnx, verification_clips

    if args.checkpoint:
        checkpoint, name, folder = load_checkpoint(args.checkpoint), args.checkpoint.stem, args.checkpoint.parent
    else:
        checkpoint, name, folder = published_checkpoint(args.model_type, args.weights), args.model_type, Path()
    path = (args.output_dir or folder) / f"{name}.onnx"
    clips = verification_clips(checkpoint.clip, max(args.num_verify_clips, *BATCH_SIZES), folder=args.verify_dir)
    print(f"exporting {checkpoint.model}, {len(checkpoint.class_names)} classes")
    report = export_onnx(checkpoint, path, clips=clips)
    print(report)
    report_path = path.with_name(f"{path.stem}_export.json")
    write_json(report_path, [asdict(report)])
    cli.show_written([path, report_path])


if __name__ == "__main__":
    cli.run(main)
