"""Measure a model on a test split: one score per video, the mean over its views."""

import argparse
import re
import shlex
import sys
from pathlib import Path

from video_module import cli
from video_module.devices import own_threads
from video_module.errors import InputError
from video_module.files import check_model_file, check_output
from video_module.machine import default_num_workers


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--test_dir", type=Path, default=Path("data/test"), help="folder of classes")
    parser.add_argument("--checkpoint", type=Path, default=Path("swin3d_b.pth"), help="X.pth or X.onnx")
    parser.add_argument(
        "--num_clips", type=cli.positive_int, help="clips of a video, with --sampling uniform (default: 4)"
    )
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
    parser.add_argument("--report", type=Path, metavar="X.html", help="write a report with pictures, one file, here")
    parser.add_argument(
        "--num_worst", type=cli.positive_int, default=12, help="worst videos shown in X_worst.png and the report"
    )
    parser.add_argument(
        "--attention",
        type=cli.positive_int,
        nargs="?",
        const=3,
        metavar="N",
        help="show where the model looks in the N worst videos (3 if no N is given): videos in X_attention; X.pth only",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="where results go (default: beside the checkpoint; X.pth and X.onnx write the same names)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--num_threads",
        type=cli.positive_int,
        help="cores for the network (default: all; of several processes, its share)",
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="clips scored at once")
    parser.add_argument(
        "--num_workers", type=cli.natural, default=default_num_workers(), help="decoding processes; 0: none"
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
    args = parser.parse_args(argv)
    if (args.results or args.compare) and (args.report or args.attention):
        parser.error("--report and --attention go with a model, not with results already there")
    if args.clip_step and args.sampling != "windows":
        parser.error("--clip_step goes with --sampling windows")
    if args.num_clips and args.sampling != "uniform":
        parser.error("--num_clips goes with --sampling uniform")
    args.num_clips = args.num_clips or 4
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.let_first_process_speak()
    if args.results:
        show_folds(args)
    elif args.compare:
        show_comparison(args)
    else:
        evaluate(args, shlex.join(["test_model.py", *(sys.argv[1:] if argv is None else argv)]))


def evaluate(args: argparse.Namespace, command: str) -> None:
    """Score the videos, each of torchrun's processes its share; the first writes what follows from the scores."""
    if args.attention and args.checkpoint.suffix.lower() != ".pth":
        raise InputError(f"--attention: {args.checkpoint} gives no gradients; test the .pth checkpoint")
    if args.report and args.report.suffix.lower() != ".html":
        raise InputError(f"--report {args.report}: the report's name ends in .html")
    check_model_file(args.checkpoint)
    stem = (args.output_dir or args.checkpoint.parent) / args.checkpoint.stem
    check_output(stem.parent, folder=True)
    if args.report:
        check_output(args.report)
    cli.let_workers_have_the_cores()
    import numpy as np

    from video_module.data import dataset, hmdb51
    from video_module.engine.distributed import join_group
    from video_module.engine.evaluation import Scores, load_test_split, score_views
    from video_module.inference.predictor import load_predictor
    from video_module.report import contact_sheet, html, metrics, results

    views = dataset.Views(
        sampling=args.sampling, num_clips=args.num_clips, num_crops=args.num_crops, clip_step=args.clip_step
    )
    with join_group(args.device) as group:
        num_threads = own_threads(args.num_threads)
        predictor = load_predictor(args.checkpoint, device=group.device, num_threads=num_threads)
        split = group.broadcast(
            lambda: load_test_split(args.test_dir, predictor.class_names, num_workers=default_num_workers())
        )
        overlap = split.overlap_with(predictor.train_sources, predictor.train_clips)
        print_overlap(args, split, overlap)
        videos, labels = split.videos, split.labels
        own_views = dataset.EvaluationViews(args.test_dir, group.shard(videos), predictor.clip, views)
        loader = dataset.EvaluationLoader(own_views, num_workers=args.num_workers)
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
        "split_digest": split.digest,
        "split": args.test_dir.absolute().name if split.digest else None,
        "protocol": split.protocol,
        "fold": split.fold,
        "train_overlap": overlap.to_dict() if overlap else None,
        "views": views.describe(predictor.clip),
        "clip": predictor.clip.to_dict(),
        "model": predictor.model,
        "weights": predictor.weights,
        "precision": predictor.precision,
        "checkpoint": str(args.checkpoint),
        "command": f"{group.launcher} {command}",
    }
    if args.sampling == "windows" and args.num_crops == 1:
        figures |= metrics.window_figures(scores.view_scores, labels)
    print(results.format_figures(figures))
    written = results.write_results(
        stem,
        figures,
        paths=paths,
        sources=sources,
        labels=labels,
        video_scores=scores.video_scores,
        class_names=predictor.class_names,
    )
    worst = contact_sheet.worst_videos(scores.video_scores, labels, count=max(args.num_worst, args.attention or 0))
    strips = [
        read_strip(args.test_dir, videos[i], scores.video_scores[i], predictor.class_names)
        for i in worst[: args.num_worst]
    ]
    written.append(stem.with_name(f"{stem.name}_worst.png"))
    title = f"{predictor.model}: the {len(strips)} worst of {len(videos)} videos"
    contact_sheet.write_contact_sheet(written[-1], strips, title=title)
    if args.report:
        matrix = metrics.confusion_matrix(scores.video_scores.argmax(axis=1), labels, len(predictor.class_names))
        html.write_report(args.report, figures, matrix=matrix, class_names=predictor.class_names, strips=strips)
        written.append(args.report)
    if args.attention:
        written.append(stem.with_name(f"{stem.name}_attention"))
        shown = [(videos[i], int(scores.video_scores[i].argmax())) for i in worst[: args.attention]]
        show_attention(args, written[-1], shown, device=group.device)
    cli.show_written(written)


def print_overlap(args: argparse.Namespace, split, overlap) -> None:
    """Say what the test videos share with the model's training. Raises InputError on a leak that is not allowed."""
    if overlap is None:
        print(f"{args.checkpoint} records no training videos: whether these are among them cannot be told")
    elif overlap.is_leak and not args.allow_leak:
        hint = "was it trained on another fold? T" if split.fold else "t"
        raise InputError(f"{args.test_dir}: {overlap}; {hint}est on a split that it never saw, or add --allow_leak")
    elif overlap.num_sources or overlap.num_clips:
        print(f"{'leak, as allowed: ' if overlap.is_leak else ''}{overlap}")


def read_strip(test_dir: Path, video, scores, class_names: list[str]):
    """A video as the contact sheet and the report show it."""
    from video_module.data.thumbnails import read_thumbnails
    from video_module.report.contact_sheet import Strip

    best = int(scores.argmax())
    return Strip(
        path=video.path,
        label=video.label,
        prediction=class_names[best],
        score=scores[best],
        label_score=scores[class_names.index(video.label)],
        frames=read_thumbnails(test_dir / video.path, num_video_frames=video.num_frames),
    )


def show_attention(args: argparse.Namespace, folder: Path, shown: list, *, device: str) -> None:
    """Write an overlay video for each (video, predicted class) of `shown`, numbered from the worst."""
    from tqdm import tqdm

    from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
    from video_module.engine.device import choose_device
    from video_module.report import attention

    checkpoint = load_checkpoint(args.checkpoint)
    model = build_from_checkpoint(checkpoint).to(choose_device(device))
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.mp4"):
        if re.match(r"\d\d+_", earlier.name):  # what else is there is the user's
            earlier.unlink()
    for rank, (video, target) in enumerate(tqdm(shown, desc="attention", unit="video", leave=False), start=1):
        heat = attention.explain_video(model, args.test_dir / video.path, target=target, batch_size=args.batch_size)
        path = folder / f"{rank:02d}_{Path(video.path).stem}.mp4"
        attention.write_attention(path, heat, checkpoint.class_names, label=video.label)


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
