"""Measure a model on a test split: one score per video, the mean over its views."""

import argparse
import shlex
import sys
from pathlib import Path

from video_module import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--test_dir", type=Path, default=Path("data/test"), help="folder of classes")
    parser.add_argument("--checkpoint", type=Path, default=Path("swin3d_b.pth"), help="X.pth or X.onnx")
    parser.add_argument("--num_clips", type=cli.positive_int, default=4, help="clips of a video (uniform sampling)")
    parser.add_argument("--num_crops", type=int, choices=(1, 3), default=3, help="crops of a clip")
    parser.add_argument(
        "--sampling", choices=("uniform", "windows"), default="uniform", help="windows: one every --clip_step frames"
    )
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames between windows (default: half a clip)"
    )
    parser.add_argument("--output_dir", type=Path, help="where results go (default: beside the checkpoint)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="clips scored at once")
    parser.add_argument(
        "--num_workers", type=cli.natural, default=cli.default_num_workers(), help="decoding processes; 0: none"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.let_workers_have_the_cores()
    import numpy as np

    from video_module.data import dataset, splits
    from video_module.engine.evaluation import score_videos
    from video_module.inference.predictor import load_predictor
    from video_module.report import metrics, results

    predictor = load_predictor(args.checkpoint, device=args.device)
    videos = splits.load_videos(args.test_dir, num_workers=cli.default_num_workers())
    labels = np.array(dataset.label_indices(videos, predictor.class_names))
    views = dataset.Views(
        sampling=args.sampling, num_clips=args.num_clips, num_crops=args.num_crops, clip_step=args.clip_step
    )
    loader = dataset.evaluation_loader(
        dataset.EvaluationViews(args.test_dir, videos, predictor.clip, views), num_workers=args.num_workers
    )
    print(f"{len(videos)} videos; {predictor.summary()}")
    scores = score_videos(predictor.score_clips, loader, batch_size=args.batch_size)

    figures = metrics.summarise(scores.view_scores, scores.video_scores, labels, predictor.class_names)
    figures |= {
        "views": views.describe(predictor.clip),
        "split_digest": splits.split_digest(args.test_dir, videos),
        "model": predictor.model,
        "checkpoint": str(args.checkpoint),
        "command": shlex.join(["python", "test_model.py", *(sys.argv[1:] if argv is None else argv)]),
    }
    print(results.format_figures(figures))
    written = results.write_results(
        (args.output_dir or args.checkpoint.parent) / args.checkpoint.stem,
        figures,
        paths=[video.path for video in videos],
        labels=labels,
        video_scores=scores.video_scores,
        class_names=predictor.class_names,
    )
    cli.show_written(written)


if __name__ == "__main__":
    cli.run(main)
