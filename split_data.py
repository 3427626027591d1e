"""Split labelled videos into train, val and test, so that videos from one recording stay together."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from video_module import cli
from video_module.config import LINKS
from video_module.errors import InputError
from video_module.machine import available_cores
from video_module.report.audit import RECORDINGS_UNKNOWN
from video_module.tables import pluralize

if TYPE_CHECKING:
    from video_module.data.grouping import Suggestion
    from video_module.data.records import SourceOf, VideoRecord

PROTOCOLS = ("grouped", "hmdb51", "ucf101")
FOLDS = ("1", "2", "3", "all")
DEFAULT_TEST_FRACTION = 0.1
# Value of --groups instead of a table: use the suggested recordings.
AUTO = Path("auto")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add_input_flags(parser)
    add_split_flags(parser)
    add_other_modes(parser)
    parser.add_argument(
        "--num_workers", type=cli.positive_int, default=available_cores(), help="files read in parallel"
    )
    args = parser.parse_args(argv)
    check_args(parser, args)
    args.fold = args.fold or "1"
    if args.test_fraction is None:
        args.test_fraction = DEFAULT_TEST_FRACTION
    held_out = args.val_fraction + (1 / args.num_folds if args.num_folds else args.test_fraction)
    if args.protocol == "grouped" and held_out >= 1:
        test = "one fold" if args.num_folds else "--test_fraction"
        parser.error(f"--val_fraction and {test} add up to {held_out:g}, which leaves no videos for training")
    return args


def add_input_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for the videos and what is done to them."""
    add = parser.add_argument
    add("--input_dir", type=Path, help="folder with a subfolder of videos per class, or a .rar, .zip or .tar of it")
    add("--output_dir", type=Path, default=Path("data"), help="folder for train/, val/ and test/")
    add(
        "--annotations",
        type=Path,
        metavar="CSV",
        help="table of labelled videos or segments, used instead of class folders: a CSV with columns path and label, "
        "and optionally start_s and end_s (or start_frame and end_frame, counted from 0, end exclusive), source "
        "(the recording), split; or lines of 'path label'. Files are looked for in --input_dir if given, then beside "
        "the table. Segments are cut to <output_dir>_clips",
    )
    add("--class_list", type=Path, help="names of numeric labels: one per line from 0, or lines such as '1 Archery'")
    add("--background", metavar="NAME", help="add a class of this name, cut from the unlabelled stretches")
    add(
        "--short_side",
        type=cli.positive_int,
        metavar="PIXELS",
        help="re-encode larger videos to this short side, so that they load fast in training; smaller ones are linked "
        "(default: 256 for segments; whole files are left as they are)",
    )


def add_split_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for who trains and who tests."""
    add = parser.add_argument
    add("--protocol", choices=PROTOCOLS, default="grouped", help="grouped: by recording; others: official split files")
    add("--splits_dir", type=Path, help="folder with the official split files, or an archive of them")
    add("--fold", choices=FOLDS, help="official fold; all: write <output_dir>/fold1 to fold3 (default: 1)")
    add("--num_folds", type=cli.positive_int, help="cross-validate: <output_dir>/fold1, …; each video is tested once")
    add(
        "--val_fraction",
        type=cli.fraction,
        default=0.2,
        help="share of all videos for val (official folds: of their training side)",
    )
    add("--test_fraction", type=cli.fraction, help="share of all videos for test; not with --num_folds (default: 0.1)")
    add(
        "--groups",
        type=Path,
        help="CSV with columns path (<class>/<file>) and source (or source_video), the recording; auto: group videos "
        "as --suggest_groups does",
    )
    add("--group_regex", help="regular expression whose first group, matched in the file name, names the recording")
    add("--link", choices=LINKS, default="hard", help="link type; files that cannot be linked are copied")
    add("--seed", type=cli.natural, default=777, help="seed for assigning recordings to splits")


def add_other_modes(parser: argparse.ArgumentParser) -> None:
    """Flags for what else this script does."""
    parser.add_argument_group("suggest recordings instead of splitting").add_argument(
        "--suggest_groups",
        type=Path,
        metavar="CSV",
        help="write a table for --groups that says which videos in --input_dir seem to come from one recording, and a "
        "picture of each group to check it by; if the recordings are known, show how well they agree",
    )
    audit = parser.add_argument_group("look for leaks instead of splitting").add_argument
    audit(
        "--audit",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="report what two sides share: of a split, of two class folders, or of a random split of one class folder",
    )
    audit("--content", action=argparse.BooleanOptionalAction, default=True, help="also find copies by their frames")
    audit("--save_to", type=Path, help="also write the report as JSON")


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage error where flags contradict each other, or one is given that would be ignored."""
    mode = "--suggest_groups" if args.suggest_groups else "--audit" if args.audit else None
    ignored = ["annotations", "class_list", "background", "short_side", "splits_dir", "fold", "num_folds"]
    if args.suggest_groups is None:
        ignored.append("input_dir")
    is_official, auto = args.protocol != "grouped", args.groups == AUTO
    mistakes = [
        (args.suggest_groups and args.audit, "--suggest_groups and --audit cannot be combined"),
        *((mode and getattr(args, name) is not None, f"--{name} cannot be combined with {mode}") for name in ignored),
        (mode and auto, f"--groups auto cannot be combined with {mode}; give a table"),
        (args.suggest_groups and not args.input_dir, "--suggest_groups requires --input_dir"),
        # Such as "" and "/"
        (args.suggest_groups and not args.suggest_groups.name, "--suggest_groups requires the name of a file"),
        (args.audit and len(args.audit) > 2, "--audit takes one or two folders"),
        (args.save_to and not args.audit, "--save_to requires --audit; a split is written to --output_dir"),
        (
            not (args.input_dir or args.annotations or args.audit),
            "give --input_dir or --annotations to split videos, or --audit to look for leaks",
        ),
        (args.class_list and not args.annotations, "--class_list requires --annotations"),
        (args.background is not None and not args.annotations, "--background requires --annotations"),
        (
            args.groups and args.annotations,
            "--groups cannot be combined with --annotations; name the recordings in the table's column source",
        ),
        (args.groups and args.group_regex, "--groups and --group_regex cannot be combined"),
        (args.num_folds == 1, "--num_folds must be at least 2, got 1"),
        (args.num_folds and args.test_fraction is not None, "--num_folds cannot be combined with --test_fraction"),
        (args.splits_dir and not is_official, "--splits_dir requires --protocol hmdb51 or ucf101"),
        (args.fold and not is_official, "--fold requires --protocol hmdb51 or ucf101"),
        (is_official and not args.splits_dir and not mode, f"--protocol {args.protocol} requires --splits_dir"),
        (is_official and args.num_folds, "--num_folds requires --protocol grouped; for official folds use --fold all"),
        (is_official and auto, "--groups auto requires --protocol grouped"),
        *(
            (is_official and value, f"{flag} requires --protocol grouped; official files list the original videos")
            for flag, value in (("--annotations", args.annotations), ("--short_side", args.short_side))
        ),
    ]
    for is_mistake, message in mistakes:
        if is_mistake:
            parser.error(message)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    if args.audit:
        audit(args)
    elif args.suggest_groups:
        suggest_groups(args)
    else:
        make_splits(args)


def read_source_of(args: argparse.Namespace) -> "SourceOf":
    """Return how to find the recording of a video: by --groups, --group_regex, or file names of HMDB51 and UCF101."""
    from video_module.data import records

    if args.groups and args.groups != AUTO:
        return records.groups_source(args.groups)
    return records.regex_source(args.group_regex) if args.group_regex else records.name_source


def make_splits(args: argparse.Namespace) -> None:
    from video_module.data import archives, grouping, labels, layout, records, split_summary, splits

    folds = folds_of(args)
    output_dirs = [args.output_dir if fold is None else args.output_dir / f"fold{fold}" for fold in folds]
    if folds[-1] is not None:
        layout.check_further_folds(args.output_dir, folds[-1])
    official: dict[int, dict[tuple[str, str], str]] = {}
    if args.protocol != "grouped":
        numbers = [int(args.fold) if fold is None else fold for fold in folds]
        splits_dir = archives.splits_folder(args.splits_dir)
        official = {number: splits.read_official(args.protocol, splits_dir, number) for number in numbers}
    source_of = read_source_of(args)
    class_dir = None if args.annotations else open_classes(args, output_dirs, source_of)
    if class_dir and not args.short_side:
        videos, rejected, folder = *scan_videos(args, class_dir, official, source_of), class_dir
    else:
        videos, rejected, folder = prepare_videos(args, class_dir, output_dirs, source_of)
    for item in rejected:
        print(f"rejected {item.path}: {item.reason}")
    notes = records.describe_faults(videos)
    if class_dir:
        notes += labels.lost_classes(class_dir, {video.label for video in videos}, [item.path for item in rejected])
    for note in notes:
        print(f"note: {note}")
    suggested = None
    if class_dir and not official and source_of is records.name_source:
        suggested = suggest_sources(args, videos, folder)
    if suggested and args.groups == AUTO:
        videos = [replace(video, source=item.source) for video, item in zip(videos, suggested, strict=True)]
    fractions = {"val_fraction": args.val_fraction, "test_fraction": args.test_fraction}
    settings = {"protocol": args.protocol, "num_folds": args.num_folds, "seed": args.seed, **fractions}
    made = splits.make_splits(videos, rejected, official, **settings)
    if suggested and not args.groups and (warning := grouping.describe_torn_apart(suggested, [s.videos for s in made])):
        print(f"warning: {warning}")
    if any((folder / records.SPLIT_JSON).is_file() for folder in output_dirs):
        print(f"note: replacing the earlier split in {args.output_dir}")
    for split, output_dir in zip(made, output_dirs, strict=True):
        num_copied = layout.write_split(split, folder, output_dir, link=args.link)
        if split.num_folds is None:
            print(split_summary.describe_split(split, recordings_unknown=RECORDINGS_UNKNOWN))
        if num_copied:
            print(f"  copied {num_copied} files to {output_dir}, because they could not be linked")
    if args.num_folds:
        print(split_summary.describe_folds(made))
    if official and (warning := split_summary.describe_missing(videos, official, args.protocol)):
        print(f"warning: {warning}")
    names = ("split.json",) if args.num_folds else ("train", "val", "test", "obj.names", "split.json")
    cli.show_written([folder / name for folder in output_dirs for name in names])


def folds_of(args: argparse.Namespace) -> list[int | None]:
    """The numbers of the folds to write; [None] for one split, written to --output_dir itself."""
    if args.num_folds:
        return list(range(1, args.num_folds + 1))
    return [1, 2, 3] if args.fold == "all" else [None]


def open_classes(args: argparse.Namespace, output_dirs: list[Path], source_of: "SourceOf") -> Path:
    """The folder of classes, unpacked if it is an archive. Refuses what can be refused before videos are decoded."""
    from video_module.data import archives, labels, layout, records

    class_dir = archives.class_folder(args.input_dir)
    for output_dir in output_dirs:
        layout.check_split_output(class_dir, output_dir)
    if skipped := labels.describe_others(class_dir):
        print(skipped)
    if args.protocol == "grouped" and source_of is records.name_source and not args.groups:
        labels.check_level(class_dir)
    return class_dir


def scan_videos(args: argparse.Namespace, class_dir: Path, official: dict[int, dict], source_of: "SourceOf"):
    """Decode and check the videos of a folder of classes. Returns them and the rejected ones."""
    from video_module.data import records, segments, splits

    # Official data sets are taken as they are
    if not official:
        found = segments.whole_files(class_dir, source_of=source_of)
        if args.num_folds:
            splits.check_sources([(video.label, video.source) for video in found], args.num_folds)
        for line in [f"note: {note}" for note, _ in segments.alike_labels(found)] + segments.describe_copies(found):
            print(line)
    videos, rejected, num_unused = records.scan(
        class_dir,
        source_of=source_of,
        wanted=lambda label, name: not official or any((label, name) in fold for fold in official.values()),
        num_workers=args.num_workers,
    )
    if num_unused:
        where = "in none of the three folds" if len(official) > 1 else f"not in fold {min(official)}"
        print(f"left out {pluralize(num_unused, 'video')} that {'is' if num_unused == 1 else 'are'} {where}")
    return videos, rejected


def prepare_videos(args: argparse.Namespace, class_dir: Path | None, output_dirs: list[Path], source_of: "SourceOf"):
    """Cut the segments of --annotations, or re-encode the videos of a folder of classes to --short_side.

    Returns the clips, the rejected ones, and the folder of the clips.
    """
    from video_module.data import annotations, archives, preparing, segments, splits

    rejected, notes = [], []
    if class_dir:
        found = segments.whole_files(class_dir, source_of=source_of)
        notes = [note for note, _ in segments.alike_labels(found)]
    else:
        found, rejected, notes = annotations.read_annotations(
            args.annotations,
            input_dir=args.input_dir and archives.unpacked(args.input_dir),
            class_list=args.class_list,
            source_of=source_of,
            num_workers=args.num_workers,
        )
        if found:
            print(f"{args.annotations}: {segments.count_labels(found)}")
        if args.num_folds and any(segment.split for segment in found):
            raise InputError(
                f"{args.annotations}: its column split already says which videos are tested; remove the column, or "
                "leave out --num_folds"
            )
    if args.num_folds:
        splits.check_sources([(segment.label, segment.source) for segment in found], args.num_folds)
    if args.background:
        background, more = segments.add_background(found, args.background, seed=args.seed)
        found, notes = found + background, notes + more
    for line in [f"note: {note}" for note in notes] + segments.describe_copies(found):
        print(line)
    segments.check_classes(found)
    store = preparing.store_beside(args.output_dir)
    preparing.check_store(store, found, output_dirs)
    made = preparing.prepare(found, store, short_side=args.short_side, num_workers=args.num_workers)
    print(f"{store}: {made.summary()}")
    return made.videos, rejected + made.rejected, store


def suggest_sources(args: argparse.Namespace, videos, input_dir: Path):
    """Suggest recordings if --groups auto is given or file names do not tell them, otherwise return None."""
    from video_module.data import grouping, records

    if args.groups == AUTO:
        found = grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)
        print(grouping.describe(found))
        return found
    if not all(map(records.has_own_source, videos)):
        return None
    print(
        "note: file names do not say which videos share a recording, so each file counts as its own; if several are "
        "cut from one recording, use --groups or --group_regex, or let --suggest_groups look for them"
    )
    if len(videos) > grouping.MOST_VIDEOS:
        return None
    return grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)


def suggest_groups(args: argparse.Namespace) -> None:
    """Write the table of suggested groups, and a picture of each group of at least two videos."""
    from video_module.data import archives, grouping, records
    from video_module.data.leaks import sources_known
    from video_module.data.thumbnails import read_thumbnails
    from video_module.files import check_outputs
    from video_module.report import contact_sheet

    table, sheets = args.suggest_groups, args.suggest_groups.with_name(f"{args.suggest_groups.stem}_sheets")
    check_outputs([("--suggest_groups", table)], [("--groups", args.groups)])
    contact_sheet.check_group_sheets(sheets)
    input_dir = archives.class_folder(args.input_dir)
    videos, rejected, _ = records.scan(input_dir, source_of=read_source_of(args), num_workers=args.num_workers)
    for item in rejected:
        print(f"rejected {item.path}: {item.reason}")
    found = grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)
    grouping.write_suggestions(table, found, rejected)

    def preview(video: "VideoRecord", item: "Suggestion") -> contact_sheet.Preview:
        frames = read_thumbnails(input_dir / video.path, num_video_frames=video.num_frames)
        note = f"{item.basis}; confidence {item.confidence:.2f}"
        return contact_sheet.Preview(title=video.path, note=note, clips=[frames], names=[""])

    groups: dict[str, list[Callable[[], contact_sheet.Preview]]] = {}
    for video, item in zip(videos, found, strict=True):
        groups.setdefault(item.source, []).append(partial(preview, video, item))
    contact_sheet.write_group_sheets(sheets, groups)
    print(grouping.describe(found))
    if sources_known(videos):
        print(grouping.describe_agreement(found, [video.source for video in videos]))
    print(f"check the pictures, correct the column source where it is wrong, then split with --groups {table}")
    cli.show_written([table, sheets])


def audit(args: argparse.Namespace) -> None:
    from video_module.data import archives, leaks
    from video_module.files import check_outputs, write_json
    from video_module.report.audit import format_audit

    check_outputs(
        [("--save_to", args.save_to)], [("--groups", args.groups), *(("--audit", path) for path in args.audit)]
    )
    found = leaks.audit(
        [archives.class_folder(path) for path in args.audit],
        source_of=read_source_of(args),
        content=args.content,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        num_workers=args.num_workers,
    )
    print(format_audit(found))
    if args.save_to:
        write_json(args.save_to, found)
        cli.show_written([args.save_to])


if __name__ == "__main__":
    cli.run(main)
