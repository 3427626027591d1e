"""Recognise actions in a video or a folder of videos: the best classes, and when they happen."""

import argparse
from collections import Counter
from pathlib import Path

from video_module import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--video_path", type=Path, required=True, help="a video, or a folder searched for videos")
    parser.add_argument("--model", "--onnx_model_path", type=Path, required=True, help="X.onnx or X.pth")
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames between windows (default: half a clip)"
    )
    parser.add_argument("--top_k", type=cli.positive_int, default=5, help="classes shown")
    parser.add_argument("--save_json", type=Path, help="scores, segments and windows; for a folder: a folder")
    parser.add_argument("--save_csv", type=Path, help="one row a window; for a folder: a folder")
    parser.add_argument("--save_video", type=Path, help="annotated .mp4; for a folder: a folder")
    parser.add_argument("--show", action="store_true", help="play the annotated video in a window; q quits")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--num_threads", type=cli.positive_int, help="cores for the network (default: all)")
    parser.add_argument("--batch_size", type=cli.positive_int, default=4, help="windows scored at once")
    parser.add_argument("--obj_names", type=Path, help="file of the classes that the model must have, to be sure")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from tqdm import tqdm

    from video_module.data.decoding import VideoError
    from video_module.data.labels import read_class_names
    from video_module.errors import InputError
    from video_module.files import write_json
    from video_module.inference import timeline
    from video_module.inference.predictor import load_predictor

    videos, is_folder = find_inputs(args.video_path)
    outputs = plan_outputs(args, videos, is_folder=is_folder)
    predictor = load_predictor(args.model, device=args.device, num_threads=args.num_threads)
    print(predictor.summary())
    if args.obj_names and read_class_names(args.obj_names) != predictor.class_names:
        raise InputError(f"{args.obj_names} lists other classes than {args.model}")
    written, failed = [], []
    for video in videos:
        try:
            with tqdm(desc=video.name, unit="frame", leave=False, delay=0.5) as bar:
                prediction = predictor.predict_video(
                    video, clip_step=args.clip_step, batch_size=args.batch_size, on_progress=progress_of(bar)
                )
        except VideoError as error:
            if not is_folder:
                raise
            print(f"\nskipped {error}")
            failed.append(video)
            continue
        print_table(prediction, args.top_k)

        if args.save_json:
            written.append(outputs[video]["save_json"])
            write_json(written[-1], timeline.to_json(prediction, model=predictor.model, k=args.top_k))
        if args.save_csv:
            written.append(outputs[video]["save_csv"])
            timeline.write_csv(written[-1], prediction)
        if args.save_video:
            from video_module.inference.overlay import write_annotated

            written.append(outputs[video]["save_video"])
            with tqdm(desc="drawing", unit="frame", leave=False, delay=0.5) as bar:
                write_annotated(written[-1], prediction, on_progress=progress_of(bar))
        if args.show:
            from video_module.inference.overlay import show_annotated

            show_annotated(prediction)
    if written:
        cli.show_written(written)
    if failed:
        raise InputError(f"{len(failed)} of {len(videos)} videos could not be read, {failed[0]} among them")


def find_inputs(path: Path) -> tuple[list[Path], bool]:
    """The videos that a path stands for, and whether it is a folder."""
    from video_module.data.decoding import is_video
    from video_module.errors import InputError

    if not path.is_dir():
        return [path], False
    videos = sorted(file for file in path.rglob("*") if is_video(file) and file.is_file())
    if not videos:
        raise InputError(f"{path}: no video in this folder")
    return videos, True


def plan_outputs(args: argparse.Namespace, videos: list[Path], *, is_folder: bool) -> dict[Path, dict[str, Path]]:
    """Where each video's files go: the options themselves, or for a folder places in them like the video's in its own.

    Raises InputError, before any work, if a file would replace one of the videos, or is of a kind that is not written.
    """
    from video_module.errors import InputError

    options = {"save_json": ".json", "save_csv": ".csv", "save_video": ".mp4"}
    options = {name: suffix for name, suffix in options.items() if getattr(args, name)}
    if not is_folder and args.save_video and args.save_video.suffix.lower() != ".mp4":
        raise InputError(f"--save_video {args.save_video}: annotated videos are written as .mp4")
    stems = Counter(video.with_suffix("") for video in videos)
    originals = {video.resolve() for video in videos}
    outputs: dict[Path, dict[str, Path]] = {}
    for video in videos:
        outputs[video] = {}
        for name, suffix in options.items():
            path = getattr(args, name)
            if is_folder:
                inside = video.relative_to(args.video_path)  # a.mp4 beside a.avi keeps its whole name
                path /= inside.with_name((inside.stem if stems[video.with_suffix("")] == 1 else inside.name) + suffix)
            if path.resolve() in originals:
                raise InputError(
                    f"--{name}: {path} is one of the videos and would be overwritten; choose another place"
                )
            outputs[video][name] = path
    return outputs


def progress_of(bar):
    """A callback (done, total) that moves a tqdm bar."""

    def on_progress(done: int, total: int) -> None:
        bar.total = max(done, total)
        bar.update(done - bar.n)

    return on_progress


def print_table(prediction, k: int) -> None:
    from video_module.inference.timeline import find_segments

    print(f"\n{prediction.path}  {prediction.duration_s:.1f} s, {prediction.num_frames} frames, {prediction.fps:g} fps")
    best = prediction.top_k(k)
    width = max(len(item["label"]) for item in best)
    for item in best:
        print(f"  {item['label']:{width}}  {item['score']:6.1%}  {'█' * round(item['score'] * 30)}")
    segments = find_segments(prediction)
    if len(segments) > 1:
        for s in segments:
            print(f"  {s.start_s:8.2f} - {s.end_s:.2f} s  {s.label} ({s.score:.0%})")


if __name__ == "__main__":
    cli.run(main)
