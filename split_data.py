"""Split a folder of classes into train, val and test by source, so that no film stands on two sides."""

import argparse
from pathlib import Path

from video_module import cli
from video_module.config import LINKS
from video_module.machine import default_num_workers

PROTOCOLS = ("grouped", "hmdb51", "ucf101")
FOLDS = ("1", "2", "3", "all")
NUM_PAIRS = 10  # of near-identical videos, printed


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--input_dir",
        type=Path,
        help="folder with one folder of videos per class, or a .rar, .zip or .tar of one (unpacked beside itself)",
    )
    parser.add_argument(
        "--audit",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="instead of splitting, report what is on two sides: of what this script wrote, of two folders of classes, "
        "or of a random split of one",
    )
    parser.add_argument(
        "--content",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--audit: also compare what the videos show, which finds copies under other names",
    )
    parser.add_argument("--save_to", type=Path, help="--audit: also write the report here, as JSON")
    parser.add_argument("--output_dir", type=Path, default=Path("data"), help="where train/, val/ and test/ go")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="grouped",
        help="grouped: by source; the others: the official split files",
    )
    parser.add_argument("--splits_dir", type=Path, help="folder of the official split files, or an archive of them")
    parser.add_argument(
        "--fold", choices=FOLDS, help="of an official protocol; all: <output_dir>/fold1..3 (default: 1)"
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
        "--num_workers", type=cli.positive_int, default=default_num_workers(), help="files probed at once"
    )
    args = parser.parse_args(argv)
    if (args.input_dir is None) == (args.audit is None):
        parser.error("give --input_dir to split a folder, or --audit to look for leaks")
    if args.audit and len(args.audit) > 2:
        parser.error("--audit takes one folder or two")
    if args.save_to and not args.audit:
        parser.error("--save_to goes with --audit; a split is written to --output_dir")
    if args.groups and args.group_regex:
        parser.error("--groups and --group_regex exclude each other")
    if args.protocol != "grouped" and args.splits_dir is None:
        parser.error(f"--protocol {args.protocol} needs --splits_dir")
    if args.protocol == "grouped" and not args.audit:
        for flag, value in (("--splits_dir", args.splits_dir), ("--fold", args.fold)):
            if value is not None:
                parser.error(f"{flag} goes with --protocol hmdb51 or ucf101; the default is grouped, by source")
    args.fold = args.fold or "1"
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from video_module.data import archives, labels, splits

    groups = splits.read_groups(args.groups) if args.groups else None
    source_of = splits.regex_source(args.group_regex) if args.group_regex else splits.name_source
    if args.audit:
        audit(args, groups, source_of)
        return
    splits_dir = args.splits_dir
    if splits_dir is not None and archives.is_archive(splits_dir):
        splits_dir = archives.folder_holding(archives.unpacked(splits_dir), "*_test_split?.txt", "trainlist*.txt")
    input_dir = archives.class_folder(args.input_dir)
    folds = [1, 2, 3] if args.fold == "all" else [int(args.fold)]
    output_dirs = [args.output_dir / f"fold{fold}" if args.fold == "all" else args.output_dir for fold in folds]
    for output_dir in output_dirs:
        splits.check_output(input_dir, output_dir)
    official = {}
    if args.protocol != "grouped":
        official = {fold: splits.read_official(args.protocol, splits_dir, fold) for fold in folds}
    show_others(labels.find_others(input_dir), input_dir)
    videos, rejected, num_unused = splits.scan(
        input_dir,
        groups=groups,
        source_of=source_of,
        wanted=lambda label, name: not official or any((label, name) in fold for fold in official.values()),
        num_workers=args.num_workers,
    )
    for item in rejected:
        print(f"rejected {item.path}: {item.reason}")
    if num_unused:
        print(f"left out {num_unused} videos that the official files do not name or use")

    by_name = args.protocol == "grouped" and groups is None and source_of is splits.name_source
    if by_name and all(map(splits.stands_alone, videos)):
        print(
            "note: no source in the names: each file counts as its own recording; if some are cuts of one, say so with "
            "--groups or --group_regex"
        )

    for fold, output_dir in zip(folds, output_dirs, strict=True):
        if args.protocol == "grouped":
            split = splits.split_grouped(
                videos, rejected, val_fraction=args.val_fraction, test_fraction=args.test_fraction, seed=args.seed
            )
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
        num_copied = splits.write_split(split, input_dir, output_dir, link=args.link)
        report(split, num_copied)
    cli.show_written(
        [folder / name for folder in output_dirs for name in ("train", "val", "test", "obj.names", "split.json")]
    )


def show_others(paths: list[Path], input_dir: Path, *, most: int = 5) -> None:
    """Say which files are no part of the split, the first of many."""
    if paths:
        names = ", ".join(path.relative_to(input_dir).as_posix() for path in paths[:most])
        more = ", …" if len(paths) > most else ""
        print(f"passed over {len(paths)} files that are no videos by their names, or in no class folder: {names}{more}")


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


def audit(args: argparse.Namespace, groups: dict[str, str] | None, source_of) -> None:
    from video_module.data import archives, leaks
    from video_module.files import check_output, write_json

    if args.save_to:
        check_output(args.save_to)
    found = leaks.audit(
        [archives.class_folder(path) for path in args.audit],
        groups=groups,
        source_of=source_of,
        content=args.content,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        num_workers=args.num_workers,
    )
    for item in found["rejected"]:
        print(f"not compared: {item['path']}: {item['reason']}")
    for pair in found["comparisons"]:
        sources, names = pair["sources"], pair["same_name"]
        print(f"{pair['second']} ({pair['num_videos'][1]} videos) against {pair['first']} ({pair['num_videos'][0]})")
        print(
            f"  same source       {sources['test_clips_within_class']} within a class "
            f"({sources['sources_within_class']} sources), {sources['test_clips_across_classes']} across classes "
            f"({sources['sources_across_classes']})"
        )
        print(f"  same file name    {names['within_class']} within a class, {names['across_classes']} across classes")
        show_near(pair["near_identical"])
    if random_split := found.get("random_split"):
        print(
            f"{random_split['num_videos']} videos of {random_split['num_sources']} sources; split at random, video by "
            f"video, {random_split['test_share_within_class']:.1%} of the test videos would have their source in train "
            f"or val under the same class, {random_split['test_share_any_class']:.1%} under any "
            f"(mean of {random_split['num_draws']} draws of {format_fractions(random_split['fractions'])}, of each "
            "class at least one test video)"
        )
    elif "random_split" in found:
        print("a random split cannot be judged: no class has two videos that decode, or --test_fraction is 0")
    if "random_split" in found:
        show_near(found["near_identical"])
    if args.save_to:
        write_json(args.save_to, found)
        cli.show_written([args.save_to])


def format_fractions(fractions: dict[str, float]) -> str:
    return ", ".join(f"{100 * share:.4g} % {split}" for split, share in fractions.items())


def show_near(pairs: list[dict] | None) -> None:
    if pairs is None:
        print("  near identical    not looked for (--no-content)")
        return
    within = sum(pair["same_class"] for pair in pairs)
    print(f"  near identical    {within} pairs within a class, {len(pairs) - within} across classes")
    for pair in pairs[:NUM_PAIRS]:
        source = "" if pair["same_source"] else ", of another source"
        print(f"    {pair['first']}  {pair['second']}  {pair['distance']:.1%} of the hash differs{source}")
    if len(pairs) > NUM_PAIRS:
        print(f"    and {len(pairs) - NUM_PAIRS} more; --save_to writes all")


if __name__ == "__main__":
    cli.run(main)
