"""Recognise actions in videos, whole folders, cameras and streams: the best classes, and when they happen."""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module import cli
from video_module.config import TimelineConfig
from video_module.devices import own_device, own_threads
from video_module.errors import InputError
from video_module.machine import leaves_bars

if TYPE_CHECKING:
    from video_module.inference.inputs import Inputs, Shard
    from video_module.inference.outputs import ResultLog
    from video_module.inference.predictor import Predictor, VideoPrediction
    from video_module.inference.timeline import Segment

MAX_SEGMENTS_PRINTED = 50
# Flag: suffix of its files.
OUTPUTS = {"save_json": ".json", "save_csv": ".csv", "save_vtt": ".vtt", "save_timeline": ".png", "save_video": ".mp4"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--video_path",
        nargs="+",
        required=True,
        metavar="INPUT",
        help="videos; folders, searched recursively; - to read names from stdin; the number of a camera; or the URL "
        "of a stream",
    )
    parser.add_argument(
        "--model",
        "--onnx_model_path",
        required=True,
        help="X.onnx, X.pth, or a name such as swin3d_t for its published weights",
    )
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames from one window to the next (default: half a clip)"
    )
    parser.add_argument("--top_k", type=cli.positive_int, default=5, help="number of classes to show")
    cli.add_config_arguments(parser.add_argument_group("segments"), TimelineConfig)
    save = parser.add_argument_group(
        "outputs",
        "With several videos, a folder or -, these flags name folders, except --save_annotations and --save_jsonl.",
    )
    save.add_argument("--save_json", type=Path, help="scores, segments and windows")
    save.add_argument("--save_csv", type=Path, help="one row per window")
    save.add_argument("--save_vtt", type=Path, help="segments as WebVTT subtitles")
    save.add_argument("--save_timeline", type=Path, help="segments as a picture, .png")
    save.add_argument(
        "--save_video", type=Path, help="annotated video as .mp4, or for a single input as .webp (an animated picture)"
    )
    save.add_argument(
        "--save_annotations",
        type=Path,
        metavar="CSV",
        help="segments of all videos in one table, which can be corrected and passed to split_data.py --annotations "
        "(with --min_score 0, uncertain segments are included under their best class)",
    )
    save.add_argument(
        "--save_jsonl",
        type=Path,
        help="one line per video, so that a later run can continue; for a camera, one line per answer",
    )
    save.add_argument("--show", action="store_true", help="play the annotated video in a window; q closes it")
    live = parser.add_argument_group("live")
    live.add_argument("--realtime", action="store_true", help="play a file at its own speed, like a camera")
    live.add_argument(
        "--stop_after_s", type=cli.positive_float, help="stop after this many seconds (default: at Ctrl-C)"
    )
    parser.add_argument("--device", default="auto", help=cli.DEVICE_HELP)
    parser.add_argument(
        "--num_threads",
        type=cli.positive_int,
        help="CPU cores for the network (default: all, divided among processes)",
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=4, help="windows per forward pass")
    parser.add_argument("--obj_names", type=Path, help="file of class names; stop if the model has different classes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    from video_module.data.labels import read_class_names
    from video_module.inference.inputs import find_inputs, find_shard
    from video_module.inference.outputs import check_annotations, check_log, plan_outputs
    from video_module.inference.predictor import load_predictor
    from video_module.inference.published import find_model

    args.timeline = cli.read_config(args, TimelineConfig)
    inputs, shard = find_inputs(args.video_path), find_shard()
    # All flags are checked before a model is downloaded or loaded.
    check_flags(args, inputs)
    outputs = plan_outputs(inputs, {flag: (getattr(args, flag), suffix) for flag, suffix in OUTPUTS.items()})
    if args.save_jsonl:
        check_log(args.save_jsonl, inputs)
    if args.save_annotations:
        args.save_annotations = shard.name(args.save_annotations)
        check_annotations(args.save_annotations, inputs)
    args.model = find_model(args.model)
    check_written(args, outputs)
    device, num_threads = args.device, args.num_threads
    if shard.count > 1:
        device, num_threads = own_device(device), own_threads(num_threads)
    predictor = load_predictor(args.model, device=device, num_threads=num_threads)
    print(predictor.summary())
    if args.obj_names and read_class_names(args.obj_names) != predictor.class_names:
        raise InputError(f"{args.obj_names} and {args.model} have different classes")
    if inputs.live is not None or args.realtime:
        watch_live(inputs, predictor, args)
    else:
        recognise(inputs, shard, predictor, args, outputs)


def check_written(args: argparse.Namespace, outputs: "dict[Path, dict[str, Path]]") -> None:
    """Raise InputError if two flags would write the same file, or one would overwrite the model or the class names."""
    from video_module.files import check_outputs

    written = [(f"--{flag}", path) for paths in outputs.values() for flag, path in paths.items()]
    read = [("--model", args.model), ("--obj_names", args.obj_names)]
    check_outputs([*written, ("--save_annotations", args.save_annotations), ("--save_jsonl", args.save_jsonl)], read)


def check_flags(args: argparse.Namespace, inputs: "Inputs") -> None:
    """Raise InputError if flags do not fit the inputs that --video_path names."""
    if inputs.videos and not inputs.root and not inputs.videos[0].exists():
        raise InputError(f"{inputs.videos[0]}: no such file")
    is_live = inputs.live is not None or args.realtime
    if is_live and (unfit := next((flag for flag in [*OUTPUTS, "save_annotations"] if getattr(args, flag)), None)):
        raise InputError(
            f"--{unfit} requires files; for a camera use --save_jsonl to log the answers, or --show to see them"
        )
    if args.realtime and len(inputs.videos) != 1:
        raise InputError("--realtime plays one file")
    if args.stop_after_s and not is_live:
        raise InputError("--stop_after_s requires a camera, a stream or --realtime")
    if args.show:
        from video_module.fonts import FONTS
        from video_module.inference.overlay import check_display

        # OpenCV's wheel bundles Qt, but no fonts. Qt prints warnings unless it is told where to find some.
        os.environ.setdefault("QT_QPA_FONTDIR", str(FONTS))
        check_display()


def watch_live(inputs: "Inputs", predictor: "Predictor", args: argparse.Namespace) -> None:
    from video_module.inference.watching import watch

    summary = watch(
        inputs.live or inputs.videos[0],
        predictor,
        clip_step=args.clip_step,
        config=args.timeline,
        k=args.top_k,
        stop_after_s=args.stop_after_s,
        log_path=args.save_jsonl,
        show=args.show,
    )
    print(summary)
    if args.save_jsonl:
        cli.show_written([args.save_jsonl])


def recognise(
    inputs: "Inputs",
    shard: "Shard",
    predictor: "Predictor",
    args: argparse.Namespace,
    outputs: dict[Path, dict[str, Path]],
) -> None:
    """Recognise this process's share of the videos. If there are many, unreadable ones are reported and skipped."""
    from tqdm import tqdm

    from video_module.errors import VideoError
    from video_module.files import file_digest, locked
    from video_module.inference.outputs import ResultLog

    is_many = inputs.root is not None
    videos, written, failed = shard.take(inputs.videos), [], []
    answers: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        log = None
        if args.save_jsonl:
            settings = {"clip_step": args.clip_step, "top_k": args.top_k, **vars(args.timeline)}
            run = {"model_digest": file_digest(args.model), **settings}
            stack.enter_context(locked(shard.name(args.save_jsonl)))
            log = stack.enter_context(ResultLog(args.save_jsonl, shard=shard, run=run))
            answers = log.answers() if args.save_annotations else {}
            num_all = len(videos)
            videos = [v for v in videos if str(v) not in log.done or not all(map(Path.exists, outputs[v].values()))]
            if len(videos) < num_all:
                print(f"{num_all - len(videos)} of {num_all} videos are already done ({args.save_jsonl})")
        if shard.count > 1:
            print(f"process {shard.index} of {shard.count}: {len(videos)} of {len(inputs.videos)} videos")
        for video in stack.enter_context(tqdm(videos, unit="video", disable=not is_many or None)):
            try:
                content = recognise_video(video, predictor, args, outputs[video], log=log, is_many=is_many)
                if args.save_annotations:
                    answers[str(video)] = content["segments"]
                written += outputs[video].values()
            except VideoError as error:
                if not is_many:
                    raise
                tqdm.write(f"skipped {error}")
                failed.append(video)
                if log:
                    log.append(video, {"error": str(error)})
    if log and videos:
        written.append(log.path)
    if args.save_annotations:
        written += save_annotations(args.save_annotations, shard.take(inputs.videos), answers)
    if written:
        cli.show_written(written)
    if failed:
        raise InputError(f"{len(failed)} of {len(videos)} videos could not be read, for example {failed[0]}")


def recognise_video(
    video: Path,
    predictor: "Predictor",
    args: argparse.Namespace,
    paths: dict[str, Path],
    *,
    log: "ResultLog | None",
    is_many: bool,
) -> dict[str, Any]:
    """Score a video; print, write, show and return the answer."""
    from tqdm import tqdm

    from video_module.inference.timeline import find_segments, to_json

    with tqdm(desc=video.name, unit="frame", leave=leaves_bars(), delay=0.5) as bar:
        prediction = predictor.predict_video(
            video, clip_step=args.clip_step, batch_size=args.batch_size, on_progress=progress_of(bar)
        )
    for note in prediction.notes():
        tqdm.write(f"note: {note}")
    segments = find_segments(prediction, args.timeline)
    content = to_json(prediction, segments, model=predictor.model, k=args.top_k, config=args.timeline)
    write_outputs(prediction, segments, content, paths)
    if is_many:
        best = prediction.top_k(1)[0]
        tqdm.write(f"{video}  {best['label']} {best['score']:.1%}, {prediction.duration_s:.1f} s")
    else:
        print_table(prediction, segments, k=args.top_k, min_score=content["timeline"]["min_score"])
    # The log is written last, so that a video with a line in the log has all its other files too.
    if log:
        log.append(video, {key: value for key, value in content.items() if key != "windows"})
    if args.show:
        from video_module.inference.overlay import show_annotated

        show_annotated(prediction, segments)
    return content


def save_annotations(path: Path, videos: Sequence[Path], answers: dict[str, list[dict[str, Any]]]) -> list[Path]:
    """Write one table with the segments of all videos that have an answer. Returns the files written."""
    from video_module.inference.outputs import name_in_table, write_annotations
    from video_module.tables import pluralize

    answered = [video for video in videos if str(video) in answers]
    num_rows = write_annotations(path, ((name_in_table(video, path), answers[str(video)]) for video in answered))
    num_uncertain = sum(len(answers[str(video)]) for video in answered) - num_rows
    if num_uncertain:
        uncertain = pluralize(num_uncertain, "uncertain segment")
        what = f"{uncertain} left out of the table" if num_rows else f"no table: found only {uncertain}"
        print(f"note: {what}; use --min_score 0 to include them under their best class")
    return [path] if num_rows else []


def write_outputs(
    prediction: "VideoPrediction", segments: "list[Segment]", content: dict[str, Any], paths: dict[str, Path]
) -> None:
    """Write the requested files of one video; `content` goes into its JSON file."""
    from tqdm import tqdm

    from video_module.files import write_json
    from video_module.inference import timeline

    if path := paths.get("save_json"):
        write_json(path, content)
    if path := paths.get("save_csv"):
        timeline.write_csv(path, prediction)
    if path := paths.get("save_vtt"):
        timeline.write_vtt(path, segments)
    if path := paths.get("save_timeline"):
        from video_module.inference.overlay import segment_colors
        from video_module.report.style import save
        from video_module.report.timeline_plot import draw_timeline

        name = timeline.shown_label
        spans = [(s.start_s, s.end_s, name(s.label), s.score) for s in segments]
        colors = {name(label): color for label, color in segment_colors(prediction.class_names).items()}
        save(draw_timeline(spans, duration_s=prediction.duration_s, colors=colors), path)
    if path := paths.get("save_video"):
        from video_module.inference.overlay import write_annotated

        with tqdm(desc="drawing", unit="frame", leave=leaves_bars(), delay=0.5) as bar:
            write_annotated(path, prediction, segments, on_progress=progress_of(bar))


def progress_of(bar):
    """A callback (done, total) that moves a tqdm bar."""

    def on_progress(done: int, total: int) -> None:
        bar.total = max(done, total)
        bar.update(done - bar.n)

    return on_progress


def print_table(prediction: "VideoPrediction", segments: "list[Segment]", *, k: int, min_score: float) -> None:
    from video_module.inference.timeline import UNCERTAIN, label_order

    print(f"\n{prediction.path}  {prediction.duration_s:.1f} s, {prediction.num_frames} frames, {prediction.fps:g} fps")
    for s in segments[:MAX_SEGMENTS_PRINTED]:
        best = prediction.class_names[int(s.scores.argmax())]
        answer = f"(uncertain: {best} {s.score:.0%})" if s.label == UNCERTAIN else f"{s.label} ({s.score:.0%})"
        print(f"  {s.start_s:8.2f} - {s.end_s:.2f} s  {answer}")
    if len(segments) > MAX_SEGMENTS_PRINTED:
        print(f"  … and {len(segments) - MAX_SEGMENTS_PRINTED} more; --save_json writes all")
    if not label_order(segments):
        print(f"  (uncertain: no class reaches --min_score {min_score:g})")
    print("mean of the whole video")
    best = prediction.top_k(k)
    width = max(len(item["label"]) for item in best)
    for item in best:
        print(f"  {item['label']:{width}}  {item['score']:6.1%}  {'█' * round(item['score'] * 30)}")


if __name__ == "__main__":
    cli.run(main)
