"""Split a folder of classes into train, val and test by source, so that no film stands on two sides."""

import argparse
from pathlib import Path

from video_module import cli

PROTOCOLS = ("grouped", "hmdb51", "ucf101")
FOLDS = ("1", "2", "3", "all")
LINKS = ("hard", "sym", "copy")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder with one folder of videos per class")
    parser.add_argument("--output_dir", type=Path, default=Path("data"), help="where train/, val/ and test/ go")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="grouped",
        help="grouped: by source; the others: the official split files",
    )
    parser.add_argument("--splits_dir", type=Path, help="folder of the official split files")
    parser.add_argument(
        "--fold", choices=FOLDS, default="1", help="of an official protocol; all: <output_dir>/fold1..3"
    )
    parser.add_argument(
        "--val_fraction",
        type=cli.fraction,
        default=0.2,
        help="of all videos; official protocols: of the official train",
    )
    parser.add_argument("--test_fraction", type=cli.fraction, default=0.1, help="of all videos (grouped only)")
    parser.add_argument("--groups", type=Path, help="CSV with columns path (<class>/<file>) and source or source_video")
    parser.add_argument("--group_regex", help="regular expression whose first group in a file name is the source")
    parser.add_argument("--link", choices=LINKS, default="hard", help="how files get there; copies where linking fails")
    parser.add_argument("--seed", type=cli.natural, default=777, help="of the assignment of sources")
    parser.add_argument(
        "--num_workers", type=cli.positive_int, default=cli.default_num_workers(), help="files probed at once"
    )
    args = parser.parse_args(argv)
    if args.groups and args.group_regex:
        parser.error("--groups and --group_regex exclude each other")
    if args.protocol != "grouped" and args.splits_dir is None:
        parser.error(f"--protocol {args.protocol} needs --splits_dir")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from video_module.data import splits

    splits.check_output(args.input_dir, args.output_dir if args.fold != "all" else args.output_dir / "fold1")
    folds = [1, 2, 3] if args.fold == "all" else [int(args.fold)]
    official = {}
    if args.protocol != "grouped":
        official = {fold: splits.read_official(args.protocol, args.splits_dir, fold) for fold in folds}
    videos, rejected, num_unused = splits.scan(
        args.input_dir,
        groups=splits.read_groups(args.groups) if args.groups else None,
        source_of=splits.regex_source(args.group_regex) if args.group_regex else splits.name_source,
        wanted=lambda label, name: not official or any((label, name) in fold for fold in official.values()),
        num_workers=args.num_workers,
    )
    for item in rejected:
        print(f"rejected {item.path}: {item.reason}")
    if num_unused:
        print(f"left out {num_unused} videos that the official files do not name or use")

    written = []
    for fold in folds:
        if args.protocol == "grouped":
            split = splits.split_grouped(
                videos, rejected, val_fraction=args.val_fraction, test_fraction=args.test_fraction, seed=args.seed
            )
            output_dir = args.output_dir
        else:
            split = splits.split_official(
                videos,
                rejected,
                official[fold],
                protocol=args.protocol,
                fold=fold,
                val_fraction=args.val_fraction,
                seed=args.seed,
            )
            output_dir = args.output_dir / f"fold{fold}" if args.fold == "all" else args.output_dir
        num_copied = splits.write_split(split, args.input_dir, output_dir, link=args.link)
        report(split, num_copied)
        written.append(output_dir)
        if args.protocol == "grouped":
            break
    cli.show_written(
        [folder / name for folder in written for name in ("train", "val", "test", "obj.names", "split.json")]
    )


def report(split, num_copied: int) -> None:
    title = split.protocol if split.fold is None else f"{split.protocol} fold {split.fold}"
    print(f"{title}: {len(split.class_names)} classes, digest {split.digest}")
    for name in ("train", "val", "test"):
        part = split.of(name)
        print(f"  {name:5} {len(part):6} videos {len({video.source for video in part}):6} sources")
    print(f"  shared by test and the rest: {split.shared}")
    for note in split.notes:
        print(f"  note: {note}")
    if num_copied:
        print(f"  {num_copied} files were copied, since linking them failed")


if __name__ == "__main__":
    cli.run(main)
