"""Count the videos, recordings, clips and seconds of each class and split, and write them as JSON and as a chart."""

import argparse
from pathlib import Path
from typing import Any

from video_module import cli
from video_module.errors import InputError
from video_module.machine import default_num_workers
from video_module.models.registry import DEFAULT_MODEL, MODELS, get_spec
from video_module.tables import align, pluralize, round_duration


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--data_dir",
        type=Path,
        default=Path("data"),
        help="folder written by split_data.py, or a folder with one subfolder of videos per class",
    )
    parser.add_argument(
        "--save_to",
        type=Path,
        default=Path("label_distribution.json"),
        help="JSON file to write; a chart is written beside it as PNG",
    )
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="PICTURE",
        help="also write frames of one video per class (12 classes at most)",
    )
    parser.add_argument(
        "--class_weights", type=Path, metavar="JSON", help="also write class weights for train_model.py"
    )
    parser.add_argument(
        "--model_type", choices=list(MODELS), default=DEFAULT_MODEL, help="count clips as this architecture takes them"
    )
    parser.add_argument("--clip_len", type=cli.positive_int, help="frames per clip (default: the model's)")
    parser.add_argument(
        "--frame_stride", type=cli.positive_int, help="step between the frames of a clip (default: the model's)"
    )
    parser.add_argument("--target_fps", type=cli.target_fps, help="as for train_model.py (default: the model's)")
    parser.add_argument(
        "--clip_step", "--step", type=cli.positive_int, help="frames from one clip to the next (default: half a clip)"
    )
    parser.add_argument(
        "--num_workers",
        type=cli.positive_int,
        default=default_num_workers(),
        help="files decoded in parallel if there is no split.json with their lengths",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    if args.save_to.suffix == ".png":
        raise InputError(f"--save_to {args.save_to}: expected the name of a JSON file; the PNG is written beside it")
    if args.examples and args.examples.suffix not in cli.PICTURE_SUFFIXES:
        raise InputError(f"--examples {args.examples}: expected a name ending in {' or '.join(cli.PICTURE_SUFFIXES)}")
    from video_module.data.distribution import class_weights, label_distribution
    from video_module.files import check_outputs, write_json
    from video_module.report.class_counts import draw_class_counts
    from video_module.report.style import save

    written = [args.save_to, args.save_to.with_suffix(".png")]
    flags = ("--save_to", "--save_to", "--examples", "--class_weights")
    check_outputs(list(zip(flags, (*written, args.examples, args.class_weights), strict=True)))
    clip = get_spec(args.model_type).clip_config(
        clip_len=args.clip_len, frame_stride=args.frame_stride, target_fps=args.target_fps
    )
    distribution, rejected = label_distribution(
        args.data_dir, clip=clip, clip_step=args.clip_step, num_workers=args.num_workers
    )
    for item in rejected:
        print(f"not counted: {item.path}: {item.reason}")
    report(distribution, model_type=args.model_type)
    write_json(args.save_to, distribution)
    save(draw_class_counts(distribution), written[1])
    if args.examples:
        show_examples(args.examples, args.data_dir, distribution["class_names"], num_workers=args.num_workers)
        written.append(args.examples)
    if args.class_weights:
        splits = distribution["splits"]
        classes = next(splits[name] for name in ("train", "all", *splits) if name in splits)["classes"]
        weights = class_weights({name: row["num_videos"] for name, row in classes.items()})
        write_json(args.class_weights, {"class_weights": weights})
        written.append(args.class_weights)
    cli.show_written(written)


def show_examples(path: Path, data_dir: Path, class_names: list[str], *, num_workers: int) -> None:
    """Write frames of the first video of each class, or of 12 classes spread over the list."""
    import numpy as np

    from video_module.data.labels import is_split_tree
    from video_module.data.records import load_videos
    from video_module.data.thumbnails import read_thumbnails
    from video_module.report.contact_sheet import write_examples

    root = data_dir / "train" if is_split_tree(data_dir) else data_dir
    # In reverse order, so that the first video of a class is the one that stays.
    first = {video.label: video for video in reversed(load_videos(root, num_workers=num_workers))}
    names = [name for name in class_names if name in first]
    # No more than fits on a screen.
    picks = np.unique(np.linspace(0, len(names) - 1, 12).round().astype(int))
    rows = {}
    for name in (names[index] for index in picks):
        video, settings = first[name], {"num_thumbnails": 6, "box": (90, 120)}
        rows[name] = read_thumbnails(root / video.path, num_video_frames=video.num_frames, **settings)
    which = "each class" if len(rows) == len(class_names) else f"{len(rows)} of {len(class_names)} classes"
    write_examples(path, rows, title=f"One video of {which}, from start to end")


def report(distribution: dict[str, Any], *, model_type: str) -> None:
    """Print a table of videos, and a line on each split."""
    splits = distribution["splits"]
    rows = [["", *splits, "recordings", "shortest", "median", "longest"]]
    for name in distribution["class_names"]:
        counts = [str(split["classes"][name]["num_videos"]) for split in splits.values()]
        described = distribution["classes"][name]
        lengths = ["-"] * 3
        if described["length_s"]:
            lengths = [f"{described['length_s'][key]:.2f} s" for key in ("shortest", "median", "longest")]
        num_sources = "-" if described["num_sources"] is None else str(described["num_sources"])
        rows.append([name, *counts, num_sources, *lengths])
    rows.append(["total", *(str(split["num_videos"]) for split in splits.values()), *[""] * 4])
    print(align(rows, left=(0,), indent=""))
    clip, step = distribution["clip"], distribution["clip"]["clip_step"]
    every = "every frame" if step == 1 else f"every {step} frames"
    rate = f" at {clip['target_fps']:g} frames/s" if clip["target_fps"] else ""
    frames = pluralize(clip["num_frames"], "frame")
    print(f"clips for {model_type}: {frames}, stride {clip['frame_stride']}{rate}, one {every}")
    for name, split in splits.items():
        known = split["num_sources"] is not None
        recordings = f"from {pluralize(split['num_sources'], 'recording')}" if known else "(recordings unknown)"
        print(
            f"{name:5} {pluralize(split['num_videos'], 'video')} {recordings}, "
            f"{pluralize(split['num_clips'], 'clip')}, {round_duration(split['duration_s'])}; "
            f"{describe_balance(split['imbalance'], len(split['classes']))}"
        )


def describe_balance(imbalance: dict[str, Any], num_classes: int) -> str:
    """How evenly the videos are spread over the classes, in words."""
    if imbalance["largest"] == imbalance["smallest"]:
        return "all classes equal"
    smallest = "a class is empty"
    if imbalance["ratio"] is not None:
        smallest = f"smallest {imbalance['smallest']:,} (ratio {imbalance['ratio']:.1f})"
    effective = f"effective number of classes: {imbalance['effective_num_classes']:.1f} of {num_classes}"
    return f"largest class {imbalance['largest']:,}, {smallest}; {effective}"


if __name__ == "__main__":
    cli.run(main)
