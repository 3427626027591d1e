"""Count the videos of each class and split, as JSON and as a picture."""

import argparse
from pathlib import Path

from video_module import cli
from video_module.errors import InputError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--data_dir", type=Path, default=Path("data"), help="what split_data.py wrote, or a folder of classes"
    )
    parser.add_argument(
        "--save_to", type=Path, default=Path("label_distribution.json"), help="JSON file; a PNG goes beside it"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.save_to.suffix == ".png":
        raise InputError(f"--save_to {args.save_to}: names the JSON file; the PNG goes beside it")
    from video_module.data.labels import label_distribution
    from video_module.files import write_json
    from video_module.report.plots import plot_label_distribution

    distribution = label_distribution(args.data_dir)
    width = max(map(len, distribution["class_names"]))
    print(" " * width, *(f"{split:>7}" for split in distribution["splits"]))
    for name in distribution["class_names"]:
        print(f"{name:{width}}", *(f"{content['classes'][name]:7}" for content in distribution["splits"].values()))
    print(f"{'':{width}}", *(f"{content['num_videos']:7}" for content in distribution["splits"].values()))
    picture = args.save_to.with_suffix(".png")
    write_json(args.save_to, distribution)
    plot_label_distribution(picture, distribution)
    cli.show_written([args.save_to, picture])


if __name__ == "__main__":
    cli.run(main)
