"""Test a model on a test split; the scores of a video are averaged over its views."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module import cli
from video_module.devices import own_threads
from video_module.errors import InputError
from video_module.files import check_model_file, check_output, check_outputs, file_digest, write_json
from video_module.machine import default_num_workers

if TYPE_CHECKING:
    from video_module.data.dataset import Views
    from video_module.engine.distributed import Group
    from video_module.engine.evaluation import EvaluationSplit, Scores
    from video_module.inference.predictor import Predictor


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--test_dir", type=Path, default=Path("data/test"), help="folder with one subfolder of videos per class"
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("swin3d_b.pth"), help="model to test, X.pth or X.onnx")
    parser.add_argument(
        "--num_clips", type=cli.positive_int, help="clips per video with --sampling uniform (default: 4)"
    )
    parser.add_argument("--num_crops", type=int, choices=(1, 3), default=3, help="crops per clip")
    parser.add_argument(
        "--sampling",
        choices=("uniform", "windows"),
        default="uniform",
        help="uniform: --num_clips spread over the video; windows: one clip every --clip_step frames",
    )
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames from one window to the next (default: half a clip)"
    )
    parser.add_argument(
        "--allow_leak",
        action="store_true",
        help="test even if the model was trained on recordings of the test split; recorded in the results",
    )
    parser.add_argument("--device", default="auto", help=cli.DEVICE_HELP)
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        help="precision for X.pth; tf32 (CUDA only) and bf16 are faster, with slightly different results (default: "
        "fp32; X.onnx has its own)",
    )
    parser.add_argument(
        "--num_threads", type=cli.positive_int, help="CPU cores for the network (default: all, divided among processes)"
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="clips per forward pass")
    parser.add_argument(
        "--num_workers",
        type=cli.natural,
        default=default_num_workers(),
        help="number of decoding processes; 0: decode in the main process",
    )
    add_output_flags(parser)
    args = parser.parse_args(argv)
    if summary := "results" if args.results else "compare" if args.compare else None:
        others = [name for name in vars(args) if getattr(args, name) != parser.get_default(name)]
        if unused := [name for name in others if name not in (summary, "output_dir")]:
            parser.error(f"--{unused[0]} cannot be combined with --{summary}, which runs no model")
    if args.clip_step and args.sampling != "windows":
        parser.error("--clip_step requires --sampling windows")
    if args.num_clips and args.sampling != "uniform":
        parser.error("--num_clips requires --sampling uniform")
    args.num_clips = args.num_clips or 4
    return args


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for what to write, and for results that are there already."""
    parser.add_argument("--output_dir", type=Path, help="folder for results (default: the folder of the checkpoint)")
    parser.add_argument("--report", type=Path, metavar="X.html", help="write a report with pictures as one HTML file")
    parser.add_argument(
        "--num_worst", type=cli.positive_int, default=12, help="number of worst videos in X_worst.png and the report"
    )
    parser.add_argument(
        "--attention",
        type=cli.positive_int,
        nargs="?",
        const=3,
        metavar="N",
        help="write videos to X_attention that show where the model looks in the N worst videos (default: 3); X.pth "
        "only",
    )
    existing = parser.add_argument_group(
        "summarise existing results (runs no model; with --output_dir, also writes X_folds.json or X_vs_Y.json)"
    ).add_mutually_exclusive_group()
    existing.add_argument(
        "--results",
        type=Path,
        nargs="+",
        metavar="X_results.json",
        help="mean and standard deviation over the folds of a model; folds of a cross-validation are also pooled",
    )
    existing.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="X_results.json",
        help="compare two models on the same test videos: a file of each, or all folds of one and then of the other",
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process(has_workers=True)
    if args.results:
        from video_module.report import folds, results

        combined = folds.combine(args.results)
        print(folds.format_folds(combined))
        if path := summary_path(args, results.shared_name(args.results) or "folds"):
            cli.show_written(folds.write_folds(path, combined))
    elif args.compare:
        from video_module.report import comparison, results

        compared = comparison.compare(args.compare)
        print(comparison.format_comparison(compared))
        half = len(args.compare) // 2
        names = [results.shared_name(paths) for paths in (args.compare[:half], args.compare[half:])]
        if path := summary_path(args, "comparison" if None in names else "_vs_".join(names)):
            write_json(path, compared)
            cli.show_written([path])
    else:
        check_paths(args)
        from video_module.engine.distributed import join_group

        with join_group(args.device) as group:
            evaluate(args, group, sys.argv[1:] if argv is None else argv)


def summary_path(args: argparse.Namespace, name: str) -> Path | None:
    """Where to write a summary; None if it is only printed."""
    if not args.output_dir:
        return None
    path = args.output_dir / f"{name}.json"
    if path.is_file():
        print(f"note: replaced {path} of an earlier summary")
    return path


def evaluate(args: argparse.Namespace, group: "Group", argv: Sequence[str]) -> None:
    """Score the videos, each of the group's processes its share; the first reports. `argv` is for the record."""
    import numpy as np

    from video_module.data.dataset import Views
    from video_module.engine.evaluation import load_test_split, score_split
    from video_module.inference.predictor import load_predictor
    from video_module.report import results

    views = Views(sampling=args.sampling, num_clips=args.num_clips, num_crops=args.num_crops, clip_step=args.clip_step)
    predictor = load_predictor(
        args.checkpoint,
        device=group.device,
        num_threads=own_threads(args.num_threads),
        precision=args.precision or "fp32",
    )
    split = group.broadcast(
        lambda: load_test_split(args.test_dir, predictor.class_names, num_workers=default_num_workers())
    )
    overlap = check_overlap(args, predictor, split)
    check_earlier_results(args, split)
    print(f"{len(split.videos)} videos; {predictor.summary()}; {group}")
    scores = score_split(
        split,
        predictor.score_clips,
        clip=predictor.clip,
        views=views,
        group=group,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        temperature=predictor.temperature,
        pin_memory=predictor.device.startswith("cuda"),
    )
    if scores is None:  # the first process has them all
        return
    if not np.isfinite(scores.video_scores).all():
        raise InputError(f"{args.checkpoint}: the scores are not finite; train or export the model again")
    figures = {
        **measure(predictor, split, scores, views=views),
        **overlap,
        "checkpoint": str(args.checkpoint),
        "checkpoint_digest": file_digest(args.checkpoint),
        "command": f"{group.launcher} {shlex.join(['test_model.py', *argv])}",
    }
    print(results.format_figures(figures))
    cli.show_written(write_outputs(args, figures, split, scores, device=group.device))


def find_earlier_results(checkpoint: Path, test_dir: Path) -> Path | None:
    """The results beside a checkpoint, if they are of just this file on just this split, and complete; else None."""
    from video_module.data.records import load_videos, split_digest
    from video_module.report import results

    path, *others = results.result_paths(results.results_stem(checkpoint, None))
    if not all(file.is_file() for file in (path, *others)):
        return None
    try:
        figures = results.read_results(path)
    except InputError:
        return None
    found = figures.get("checkpoint_digest"), figures["split_digest"]
    wanted = file_digest(checkpoint), split_digest(test_dir, load_videos(test_dir, num_workers=1))
    # Results of earlier versions do not tell how the model was trained
    return path if found == wanted and figures["training"] else None


def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError, before hours of work, if a file is missing or cannot be written."""
    if args.attention and args.checkpoint.suffix.lower() != ".pth":
        raise InputError(f"--attention: {args.checkpoint} has no gradients; use the .pth checkpoint")
    if args.precision and args.checkpoint.suffix.lower() == ".onnx":
        raise InputError(
            f"--precision {args.precision}: the precision of {args.checkpoint} was set by its export; leave out the "
            "flag"
        )
    if args.report and args.report.suffix.lower() != ".html":
        raise InputError(f"--report {args.report}: expected a name ending in .html")
    check_model_file(args.checkpoint)
    check_output(args.output_dir or args.checkpoint.parent, folder=True)
    from video_module.report import results

    stem = results.results_stem(args.checkpoint, args.output_dir)
    written = [*results.result_paths(stem), stem.with_name(f"{stem.name}_worst.png")]
    check_outputs(
        [*(("--output_dir", path) for path in written), ("--report", args.report)], [("--checkpoint", args.checkpoint)]
    )
    if args.attention:
        check_output(stem.with_name(f"{stem.name}_attention"), folder=True)


def check_earlier_results(args: argparse.Namespace, split: "EvaluationSplit") -> None:
    """Tell which results will be replaced. Raises InputError if they are of another fold, which is still wanted."""
    from video_module.report import results

    path = results.result_paths(results.results_stem(args.checkpoint, args.output_dir))[0]
    found = next((file for file in (path, args.report) if file and file.is_file()), None)
    if found is None:
        return
    earlier = None
    if found == path:
        with suppress(InputError):
            earlier = results.read_results(path)["fold"]
    if earlier and split.fold and earlier != split.fold:
        raise InputError(
            f"{path}: holds the results of fold {earlier}, and this is fold {split.fold}; use another --output_dir"
        )
    print(
        f"note: {found} and the files beside it, from an earlier test, will be replaced once this test is done; use "
        "another --output_dir to keep them"
    )


def check_overlap(args: argparse.Namespace, predictor: "Predictor", split: "EvaluationSplit") -> dict[str, Any]:
    """What the test videos share with the model's training, for X_results.json, in numbers and in words.

    Raises InputError on a leak that is not allowed.
    """
    from video_module.data.leaks import sources_known

    overlap = split.overlap_with(predictor.train_sources, predictor.train_clips, train_digest=predictor.split_digest)
    if overlap is None:
        unknown = f"{args.checkpoint} does not record its training videos, so leaks cannot be detected"
        print(f"note: {unknown}")
        return {"train_overlap": None, "train_overlap_note": unknown}
    if overlap.is_leak and not args.allow_leak:
        hint = "was it trained on another fold? T" if split.fold else "t"
        raise InputError(
            f"{args.test_dir}: {overlap}; {hint}est on videos that it was not trained on, or add --allow_leak"
        )
    shared = None
    if overlap.num_sources or overlap.num_clips:
        allowed = " (official folds share recordings across classes)" if split.fold and not overlap.num_clips else ""
        shared = f"leak (allowed): {overlap}" if overlap.is_leak else f"{overlap}{allowed}"
        print(shared)
    if not sources_known(split.videos):
        print(
            "note: the recordings of these videos are unknown, so only the training videos themselves can be "
            "detected, not other cuts of their recordings"
        )
    elif not shared:
        print("no test video comes from a recording in the model's train and val splits")
    return {"train_overlap": overlap.to_dict(), "train_overlap_note": shared}


def measure(predictor: "Predictor", split: "EvaluationSplit", scores: "Scores", *, views: "Views") -> dict[str, Any]:
    """What X_results.json says about the scores, and about the model, split and views that they come from."""
    from video_module import __version__
    from video_module.data import hmdb51
    from video_module.data.leaks import sources_known
    from video_module.report import metrics

    tags = [hmdb51.describe_tags(video.path, video.label) for video in split.videos]
    is_right = scores.video_scores.argmax(axis=1) == split.labels
    figures = {
        **metrics.summarise(
            scores.view_scores,
            scores.video_scores,
            split.labels,
            predictor.class_names,
            sources=split.sources,
            cross_validated=split.num_folds is not None,
        ),
        **metrics.calibration_figures(
            scores.view_scores, split.labels, temperature=predictor.temperature, min_score=predictor.min_score
        ),
        **metrics.tag_figures(tags, is_right, hmdb51.tag_values()),
        **split.to_dict(),
        "views": views.describe(predictor.clip),
        "clip": predictor.clip.to_dict(),
        "model": predictor.model,
        "weights": predictor.weights,
        "training": predictor.training,
        "program_version": __version__,
        "precision": predictor.precision,
    }
    if not sources_known(split.videos):
        unknown = "the recordings are unknown: if videos share a recording, the intervals are too narrow"
        figures["interval_note"] = "; ".join(filter(None, [figures["interval_note"], unknown]))
    if views.sampling == "windows" and views.num_crops == 1:
        figures |= metrics.window_figures(scores.view_scores, split.labels)
    return figures


def write_outputs(
    args: argparse.Namespace, figures: dict[str, Any], split: "EvaluationSplit", scores: "Scores", *, device: str
) -> list[Path]:
    """Write figures, tables and pictures; returns their paths."""
    from video_module.data.thumbnails import read_thumbnails
    from video_module.report import contact_sheet, html, metrics, results

    stem = results.results_stem(args.checkpoint, args.output_dir)
    class_names, best = list(figures["per_class"]), scores.video_scores.argmax(axis=1)
    written = results.write_results(
        stem,
        figures,
        paths=[video.path for video in split.videos],
        sources=split.sources,
        labels=split.labels,
        video_scores=scores.video_scores,
        class_names=class_names,
    )
    num_shown = max(args.num_worst, args.attention or 0)
    worst = contact_sheet.worst_videos(scores.video_scores, split.labels, count=num_shown)
    strips = []
    for index in worst[: args.num_worst]:
        video = split.videos[index]
        frames = read_thumbnails(args.test_dir / video.path, num_video_frames=video.num_frames)
        row = scores.video_scores[index]
        strips.append(contact_sheet.Strip.from_scores(video.path, video.label, row, class_names, frames=frames))
    written.append(stem.with_name(f"{stem.name}_worst.png"))
    title = f"{figures['model']}: the {len(strips)} worst of {len(split.videos)} videos"
    contact_sheet.write_contact_sheet(written[-1], strips, title=title)
    if args.report:
        matrix = metrics.confusion_matrix(best, split.labels, len(class_names))
        html.write_report(args.report, figures, matrix=matrix, class_names=class_names, strips=strips)
        written.append(args.report)
    if args.attention:
        from video_module.inference.explain import explain_videos

        written.append(stem.with_name(f"{stem.name}_attention"))
        shown = [(split.videos[index], int(best[index])) for index in worst[: args.attention]]
        videos = [(args.test_dir / video.path, target, video.label) for video, target in shown]
        explain_videos(args.checkpoint, videos, written[-1], device=device, batch_size=args.batch_size)
    return written


if __name__ == "__main__":
    cli.run(main)
