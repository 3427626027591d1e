"""Measure a model on a test split: one score per video, the mean over its views."""

import argparse
import shlex
import sys
from pathlib import Path

from video_module import cli
from video_module.errors import InputError


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
    parser.add_argument(
        "--allow_leak", action="store_true", help="test on sources that the model was trained on, and record it"
    )
    parser.add_argument("--output_dir", type=Path, help="where results go (default: beside the checkpoint)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="clips scored at once")
    parser.add_argument(
        "--num_workers", type=cli.natural, default=cli.default_num_workers(), help="decoding processes; 0: none"
    )
    of_results = parser.add_argument_group(
        "of results already there (no model is run; --output_dir: where folds.json or comparison.json goes)"
    ).add_mutually_exclusive_group()
    of_results.add_argument(
        "--results", type=Path, nargs="+", metavar="X_results.json", help="mean and deviation over the folds of a model"
    )
    of_results.add_argument(
        "--compare", type=Path, nargs=2, metavar="X_results.json", help="difference of two models on one split"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.results:
        show_folds(args)
    elif args.compare:
        show_comparison(args)
    else:
        evaluate(args, shlex.join(["test_model.py", *(sys.argv[1:] if argv is None else argv)]))


def evaluate(args: argparse.Namespace, command: str) -> None:
    """Score the videos, each of torchrun's processes its share; the first writes what follows from the scores."""
    cli.let_workers_have_the_cores()
    cli.let_first_process_speak()
    import numpy as np

    from video_module.data import dataset, hmdb51
    from video_module.engine.distributed import join_group
    from video_module.engine.evaluation import Scores, score_views
    from video_module.inference.predictor import load_predictor
    from video_module.report import metrics, results

    views = dataset.Views(
        sampling=args.sampling, num_clips=args.num_clips, num_crops=args.num_crops, clip_step=args.clip_step
    )
    with join_group(args.device) as group:
        predictor = load_predictor(args.checkpoint, device=group.device)
        videos, labels, split = load_test_split(args, predictor)
        own_views = dataset.EvaluationViews(args.test_dir, group.share(videos), predictor.clip, views)
        loader = dataset.evaluation_loader(own_views, num_workers=args.num_workers)
        print(f"{len(videos)} videos; {predictor.summary()}; {group}")
        view_scores = group.gather(score_views(predictor.score_clips, loader, batch_size=args.batch_size))
        if view_scores is None:
            return
        scores = Scores.from_views(view_scores)
        if not np.isfinite(scores.video_scores).all():
            raise InputError(f"{args.checkpoint}: gives scores that are not finite numbers; train or export it again")

    paths, sources = [video.path for video in videos], [video.source for video in videos]
    tags = [hmdb51.describe_tags(video.path, video.label) for video in videos]
    figures = {
        **metrics.summarise(scores.view_scores, scores.video_scores, labels, predictor.class_names, sources=sources),
        **metrics.tag_figures(tags, scores.video_scores.argmax(axis=1) == labels, hmdb51.tag_values()),
        **split,
        "views": views.describe(predictor.clip),
        "clip": predictor.clip.to_dict(),
        "model": predictor.model,
        "weights": predictor.weights,
        "checkpoint": str(args.checkpoint),
        "command": f"{group.launcher} {command}",
    }
    if args.sampling == "windows" and args.num_crops == 1:
        figures |= metrics.window_figures(scores.view_scores, labels)
    print(results.format_figures(figures))
    written = results.write_results(
        (args.output_dir or args.checkpoint.parent) / args.checkpoint.stem,
        figures,
        paths=paths,
        sources=sources,
        labels=labels,
        video_scores=scores.video_scores,
        class_names=predictor.class_names,
    )
    cli.show_written(written)


def load_test_split(args: argparse.Namespace, predictor):
    """The videos, their class indices, and what X_results.json records of the split. Refuses a leak."""
    import numpy as np

    from video_module.data import audit, dataset, splits
    from video_module.data.labels import check_class_folders

    videos = splits.load_videos(args.test_dir, num_workers=cli.default_num_workers())
    check_class_folders(args.test_dir)
    labels = np.array(dataset.label_indices(videos, predictor.class_names))
    record = splits.split_record(args.test_dir, videos) or {}
    overlap = audit.train_overlap(
        [(video.path, video.source) for video in videos],
        train_sources=predictor.train_sources,
        train_clips=predictor.train_clips,
        protocol=record.get("protocol"),
        official=splits.is_official(record.get("protocol")),
    )
    if overlap is None:
        print(f"{args.checkpoint} records no training videos: whether these are among them cannot be told")
    elif overlap.is_leak and not args.allow_leak:
        hint = "was it trained on another fold? T" if record.get("fold") else "t"
        raise InputError(f"{args.test_dir}: {overlap}; {hint}est on a split that it never saw, or add --allow_leak")
    elif overlap.num_sources or overlap.num_clips:
        print(f"{'leak, as allowed: ' if overlap.is_leak else ''}{overlap}")
    split = {"split_digest": record.get("digest"), "protocol": record.get("protocol"), "fold": record.get("fold")}
    return videos, labels, split | {"train_overlap": overlap.to_dict() if overlap else None}


def show_folds(args: argparse.Namespace) -> None:
    from video_module.files import write_json
    from video_module.report import folds

    combined = folds.combine(args.results)
    print(folds.format_folds(combined))
    if args.output_dir:
        write_json(args.output_dir / "folds.json", combined)
        cli.show_written([args.output_dir / "folds.json"])


def show_comparison(args: argparse.Namespace) -> None:
    from video_module.files import write_json
    from video_module.report import comparison

    compared = comparison.compare(*args.compare)
    print(comparison.format_comparison(compared))
    if args.output_dir:
        write_json(args.output_dir / "comparison.json", compared)
        cli.show_written([args.output_dir / "comparison.json"])


if __name__ == "__main__":
    cli.run(main)
