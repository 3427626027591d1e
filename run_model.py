"""Recognise actions in videos, whole folders, cameras and streams: the best classes, and when they happen."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_module import cli
from video_module.config import TimelineConfig
from video_module.devices import own_device, own_threads
from video_module.errors import InputError

if TYPE_CHECKING:
    from video_module.inference.predictor import Predictor, VideoPrediction
    from video_module.inference.sources import Shard, Sources
    from video_module.inference.timeline import Segment

MOST_SEGMENTS = 50  # printed
# flag: suffix of its files
OUTPUTS = {"save_json": ".json", "save_csv": ".csv", "save_vtt": ".vtt", "save_timeline": ".png", "save_video": ".mp4"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--video_path",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="videos; folders, searched at any depth; - for names on stdin; or a camera's number or a stream's URL",
    )
    parser.add_argument(
        "--model",
        "--onnx_model_path",
        required=True,
        help="X.onnx or X.pth; or a name such as swin3d_t for its published weights",
    )
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames between windows (default: half a clip)"
    )
    parser.add_argument("--top_k", type=cli.positive_int, default=5, help="classes shown")
    cli.add_config_arguments(parser.add_argument_group("segments"), TimelineConfig)
    save = parser.add_argument_group("what is written; for more than one video, these are folders")
    save.add_argument("--save_json", type=Path, help="scores, segments and windows")
    save.add_argument("--save_csv", type=Path, help="one row a window")
    save.add_argument("--save_vtt", type=Path, help="segments as WebVTT subtitles")
    save.add_argument("--save_timeline", type=Path, help="segments as a picture, .png")
    save.add_argument("--save_video", type=Path, help="annotated .mp4; one video's also as an animated picture, .webp")
    save.add_argument(
        "--save_jsonl",
        type=Path,
        help="one file, a line for each video; run again, it goes on where it stopped. Live: a line for each answer",
    )
    save.add_argument("--show", action="store_true", help="play the annotated video in a window; q ends it")
    live = parser.add_argument_group("live")
    live.add_argument("--realtime", action="store_true", help="play a file at its own speed, as if it were a camera")
    live.add_argument("--stop_after_s", type=cli.positive_float, help="end after so many seconds (default: Ctrl-C)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--num_threads",
        type=cli.positive_int,
        help="cores for the network (default: all; of several processes, its share)",
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=4, help="windows scored at once")
    parser.add_argument("--obj_names", type=Path, help="file of the classes that the model must have, to be sure")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.let_first_process_speak()
    from video_module.data.labels import read_class_names
    from video_module.inference.outputs import check_log, plan_outputs
    from video_module.inference.predictor import load_predictor
    from video_module.inference.published import find_model
    from video_module.inference.sources import find_shard, find_sources

    try:
        args.timeline = TimelineConfig(**cli.given(args, TimelineConfig))
    except ValueError as error:
        raise InputError(str(error)) from None
    sources, shard = find_sources(args.video_path), find_shard()
    if sources.videos and not sources.root and not sources.videos[0].exists():  # before a model is loaded, or fetched
        raise InputError(f"{sources.videos[0]}: no such file")
    is_live = sources.live is not None or args.realtime
    if is_live and (unfit := next((flag for flag in OUTPUTS if getattr(args, flag)), None)):
        raise InputError(f"--{unfit} goes with files; a live source is logged by --save_jsonl and seen with --show")
    if args.realtime and len(sources.videos) != 1:
        raise InputError("--realtime plays one file")
    if args.stop_after_s and not is_live:
        raise InputError("--stop_after_s goes with a camera, a stream or --realtime")
    if args.show:
        from video_module.inference.overlay import check_display

        check_display()
    outputs = plan_outputs(sources, {flag: (getattr(args, flag), suffix) for flag, suffix in OUTPUTS.items()})
    if args.save_jsonl:
        check_log(args.save_jsonl, sources)
    args.model = find_model(args.model)
    device, num_threads = args.device, args.num_threads
    if shard.count > 1:
        device, num_threads = own_device(device), own_threads(num_threads)
    predictor = load_predictor(args.model, device=device, num_threads=num_threads)
    print(predictor.summary())
    if args.obj_names and read_class_names(args.obj_names) != predictor.class_names:
        raise InputError(f"{args.obj_names} lists other classes than {args.model}")
    if is_live:
        from video_module.inference.watching import summary_line, watch

        summary = watch(
            sources.live or sources.videos[0],
            predictor,
            clip_step=args.clip_step,
            config=args.timeline,
            k=args.top_k,
            stop_after_s=args.stop_after_s,
            log_path=args.save_jsonl,
            show=args.show,
        )
        print(summary_line(summary))
        if args.save_jsonl:
            cli.show_written([args.save_jsonl])
    else:
        recognise(sources, shard, predictor, args, outputs)


def recognise(
    sources: "Sources",
    shard: "Shard",
    predictor: "Predictor",
    args: argparse.Namespace,
    outputs: dict[Path, dict[str, Path]],
) -> None:
    """Score each video, print and write its answers; those that cannot be read are told of and counted."""
    from contextlib import nullcontext

    from tqdm import tqdm

    from video_module.data.decoding import VideoError
    from video_module.inference.outputs import ResultLog, file_digest
    from video_module.inference.timeline import find_segments, to_json

    is_many = sources.root is not None
    videos = list(shard.take(sources.videos))
    log: Any = nullcontext()
    if args.save_jsonl:
        settings = {name: getattr(args, name) for name in ("clip_step", "top_k")} | vars(args.timeline)
        log = ResultLog(args.save_jsonl, shard=shard, run={"model_digest": file_digest(args.model), **settings})
        todo = [v for v in videos if str(v) not in log.done or not all(path.exists() for path in outputs[v].values())]
        if len(todo) < len(videos):
            print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already: {args.save_jsonl}")
        videos = todo
    if shard.count > 1:
        print(f"process {shard.index} of {shard.count}: {len(videos)} of {len(sources.videos)} videos")
    written, failed = [], []
    with log, tqdm(videos, unit="video", disable=not is_many or None) as bar:
        for video in bar:
            try:
                prediction = predict(predictor, video, args)
                segments = find_segments(prediction, args.timeline)
                written += write_outputs(prediction, segments, predictor.model, args, outputs[video])
            except VideoError as error:
                if not is_many:
                    raise
                tqdm.write(f"skipped {error}")
                failed.append(video)
                if args.save_jsonl:
                    log.append(video, {"error": str(error)})
                continue
            if is_many:
                best = prediction.top_k(1)[0]
                tqdm.write(f"{video}  {best['label']} {best['score']:.1%}, {prediction.duration_s:.1f} s")
            else:
                print_table(prediction, segments, k=args.top_k, min_score=args.timeline.min_score)
            if args.save_jsonl:
                content = to_json(
                    prediction, segments, model=predictor.model, k=args.top_k, config=args.timeline, windows=False
                )
                log.append(video, content)  # last: what has a line is whole
            if args.show:
                from video_module.inference.overlay import show_annotated

                show_annotated(prediction, segments)
    if args.save_jsonl and videos:
        written.append(log.path)
    if written:
        cli.show_written(written)
    if failed:
        raise InputError(f"{len(failed)} of {len(videos)} videos could not be read, {failed[0]} among them")


def predict(predictor: "Predictor", video: Path, args: argparse.Namespace) -> "VideoPrediction":
    from tqdm import tqdm

    with tqdm(desc=video.name, unit="frame", leave=False, delay=0.5) as bar:
        return predictor.predict_video(
            video, clip_step=args.clip_step, batch_size=args.batch_size, on_progress=progress_of(bar)
        )


def write_outputs(
    prediction: "VideoPrediction",
    segments: "list[Segment]",
    model: str,
    args: argparse.Namespace,
    paths: dict[str, Path],
) -> list[Path]:
    """Write what was asked for of one video; the paths, in the flags' order."""
    from tqdm import tqdm

    from video_module.files import write_json
    from video_module.inference import timeline

    if path := paths.get("save_json"):
        write_json(path, timeline.to_json(prediction, segments, model=model, k=args.top_k, config=args.timeline))
    if path := paths.get("save_csv"):
        timeline.write_csv(path, prediction)
    if path := paths.get("save_vtt"):
        timeline.write_vtt(path, segments)
    if path := paths.get("save_timeline"):
        from video_module.inference.overlay import segment_colors
        from video_module.report.style import save
        from video_module.report.timeline_plot import draw_timeline

        spans = [(s.start_s, s.end_s, s.label, s.score) for s in segments]
        colors = segment_colors(prediction.class_names)
        save(draw_timeline(spans, duration_s=prediction.duration_s, colors=colors), path)
    if path := paths.get("save_video"):
        from video_module.inference.overlay import write_annotated

        with tqdm(desc="drawing", unit="frame", leave=False, delay=0.5) as bar:
            write_annotated(path, prediction, segments, on_progress=progress_of(bar))
    return list(paths.values())


def progress_of(bar):
    """A callback (done, total) that moves a tqdm bar."""

    def on_progress(done: int, total: int) -> None:
        bar.total = max(done, total)
        bar.update(done - bar.n)

    return on_progress


def print_table(prediction: "VideoPrediction", segments: "list[Segment]", *, k: int, min_score: float) -> None:
    from video_module.inference.timeline import order_of

    print(f"\n{prediction.path}  {prediction.duration_s:.1f} s, {prediction.num_frames} frames, {prediction.fps:g} fps")
    for s in segments[:MOST_SEGMENTS]:
        print(f"  {s.start_s:8.2f} - {s.end_s:.2f} s  {s.label} ({s.score:.0%})")
    if len(segments) > MOST_SEGMENTS:
        print(f"  … and {len(segments) - MOST_SEGMENTS} more; --save_json writes all")
    if not order_of(segments):
        print(f"  (uncertain: no class reaches --min_score {min_score:g})")
    print("mean of the whole video")
    best = prediction.top_k(k)
    width = max(len(item["label"]) for item in best)
    for item in best:
        print(f"  {item['label']:{width}}  {item['score']:6.1%}  {'█' * round(item['score'] * 30)}")


if __name__ == "__main__":
    cli.run(main)
