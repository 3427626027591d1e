"""Split labelled videos into train, val and test by source, so that no film stands on two sides."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from video_module import cli
from video_module.config import LINKS
from video_module.errors import InputError
from video_module.machine import available_cores

if TYPE_CHECKING:
    from video_module.data.records import Rejected, VideoRecord
    from video_module.data.splits import Split

PROTOCOLS = ("grouped", "hmdb51", "ucf101")
FOLDS = ("1", "2", "3", "all")
DEFAULT_TEST_FRACTION = 0.1
# Videos of a suggested group in its picture.
MOST_SHOWN = 24
# In the place of a table: sources are those that grouping suggests.
AUTO = Path("auto")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    add = parser.add_argument
    add("--input_dir", type=Path, help="folder with a folder of videos for each class, or a .rar, .zip or .tar of one")
    add("--output_dir", type=Path, default=Path("data"), help="where train/, val/ and test/ go")
    add(
        "--annotations",
        type=Path,
        metavar="CSV",
        help="instead of class folders: a table with columns path and label, and as needed start_s and end_s (or "
        "start_frame and end_frame, from 0, the end left out), source, split; or a list of lines 'path label'. Paths "
        "are relative to it or to --input_dir; segments are cut to <output_dir>_clips",
    )
    add("--class_list", type=Path, help="names of numeric labels: one a line, numbered from 0, or as in '1 Archery'")
    add("--background", metavar="NAME", help="cut unlabelled stretches as one more class of this name")
    add(
        "--short_side",
        type=cli.positive_int,
        metavar="PIXELS",
        help="encode larger videos once at this short side, in files that train fast; smaller ones are linked "
        "(default: 256 for segments; whole files stay as they are)",
    )
    add("--protocol", choices=PROTOCOLS, default="grouped", help="grouped: by source; others: the official split files")
    add("--splits_dir", type=Path, help="folder of the official split files, or an archive of them")
    add("--fold", choices=FOLDS, help="of an official protocol; all: <output_dir>/fold1..3 (default: 1)")
    add("--num_folds", type=cli.positive_int, help="cross-validate: <output_dir>/fold1, …; each video tests once")
    add("--val_fraction", type=cli.fraction, default=0.2, help="of all videos; official: of the official train side")
    add("--test_fraction", type=cli.fraction, help="of all videos (grouped, without --num_folds; default: 0.1)")
    add(
        "--groups",
        type=Path,
        help="CSV with columns path (<class>/<file>) and source or source_video; auto: as --suggest_groups finds them",
    )
    add("--group_regex", help="regular expression whose first group in a file name is the source")
    add("--link", choices=LINKS, default="hard", help="how files get there; copies where linking fails")
    add("--seed", type=cli.natural, default=777, help="of the assignment of sources")
    add("--num_workers", type=cli.positive_int, default=available_cores(), help="files decoded at once")
    parser.add_argument_group("instead of splitting, suggest sources").add_argument(
        "--suggest_groups",
        type=Path,
        metavar="CSV",
        help="write which videos of --input_dir seem to be cut from one recording, as a table for --groups, and a "
        "picture of each group to check it by; where sources are known, say how far it agrees",
    )
    audit = parser.add_argument_group("instead of splitting, look for leaks").add_argument
    audit(
        "--audit",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="report what is on two sides: of a split, of two folders of classes, or of a random split of one folder",
    )
    audit(
        "--content",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also compare what the videos show, which finds copies under other names",
    )
    audit("--save_to", type=Path, help="also write the report here, as JSON")
    args = parser.parse_args(argv)
    check_args(parser, args)
    args.fold = args.fold or "1"
    if args.test_fraction is None:
        args.test_fraction = DEFAULT_TEST_FRACTION
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a usage error where flags do not go together."""
    if (args.input_dir is None and args.annotations is None) == (args.audit is None):
        parser.error("give --input_dir or --annotations to split videos, or --audit to look for leaks")
    for flag, value in (("--class_list", args.class_list), ("--background", args.background)):
        if value is not None and args.annotations is None:
            parser.error(f"{flag} goes with --annotations")
    if args.annotations and args.groups:
        parser.error("--groups goes with class folders; a table has its own column source")
    if args.protocol != "grouped" and (args.annotations or args.short_side):
        flag = "--annotations" if args.annotations else "--short_side"
        parser.error(f"{flag} goes with --protocol grouped; official split files name the videos as they are")
    if args.audit and len(args.audit) > 2:
        parser.error("--audit takes one folder or two")
    if args.suggest_groups and args.audit:
        parser.error("--suggest_groups and --audit exclude each other")
    if (args.audit or args.suggest_groups) and args.groups == AUTO:
        parser.error("--groups auto is for splitting; --suggest_groups writes a table")
    if args.save_to and not args.audit:
        parser.error("--save_to goes with --audit; a split is written to --output_dir")
    if args.groups and args.group_regex:
        parser.error("--groups and --group_regex exclude each other")
    if args.protocol != "grouped" and args.splits_dir is None:
        parser.error(f"--protocol {args.protocol} needs --splits_dir")
    if args.num_folds == 1:
        parser.error("--num_folds must be at least 2, got 1")
    if args.num_folds and (args.audit or args.protocol != "grouped"):
        parser.error("--num_folds goes with the default protocol, grouped; official protocols have --fold all")
    if args.num_folds and args.test_fraction is not None:
        parser.error("--num_folds tests one fold of the videos: leave out --test_fraction")
    if args.protocol == "grouped" and not args.audit:
        for flag, value in (("--splits_dir", args.splits_dir), ("--fold", args.fold)):
            if value is not None:
                parser.error(f"{flag} goes with --protocol hmdb51 or ucf101; the default is grouped, by source")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    if args.audit:
        audit(args)
    elif args.suggest_groups:
        suggest_groups(args)
    else:
        make_splits(args)


def read_source_of(args: argparse.Namespace) -> Callable[[str, str], str]:
    """The function that tells a video's source: from --groups, from --group_regex, or from names that are known."""
    from video_module.data import records

    if args.groups and args.groups != AUTO:
        return records.groups_source(args.groups)
    return records.regex_source(args.group_regex) if args.group_regex else records.name_source


def make_splits(args: argparse.Namespace) -> None:
    from video_module.data import layout, records, splits

    folds = folds_of(args)
    output_dirs = [args.output_dir if fold is None else args.output_dir / f"fold{fold}" for fold in folds]
    if folds[-1] is not None:
        layout.check_further_folds(args.output_dir, folds[-1])
    official: dict[int, dict[tuple[str, str], str]] = {}
    if args.protocol != "grouped":
        numbers = [int(args.fold) if fold is None else fold for fold in folds]
        official = {number: splits.read_official(args.protocol, read_splits_dir(args), number) for number in numbers}
    find = prepare_videos if args.annotations or args.short_side else scan_videos
    videos, rejected, folder = find(args, output_dirs, official)
    for item in rejected:
        print(f"rejected {item.path}: {item.reason}")
    for sentence in records.describe_faults(videos):
        print(f"note: {sentence}")
    suggested = None
    if not official and not args.annotations and read_source_of(args) is records.name_source:
        suggested = suggest_sources(args, videos, folder)
    if suggested and args.groups == AUTO:
        videos = [replace(video, source=item.source) for video, item in zip(videos, suggested, strict=True)]
    made = assign(args, videos, rejected, official)
    if not official and not args.num_folds:
        show_smallness(made[0])
    if suggested and not args.groups:
        show_torn_apart(suggested, made)
    for split, output_dir in zip(made, output_dirs, strict=True):
        num_copied = layout.write_split(split, folder, output_dir, link=args.link)
        if split.num_folds is None:
            report(split)
        if num_copied:
            print(f"  {num_copied} files were copied to {output_dir}, since linking them failed")
    if args.num_folds:
        print(splits.describe_folds(made))
    names = ("split.json",) if args.num_folds else ("train", "val", "test", "obj.names", "split.json")
    cli.show_written([folder / name for folder in output_dirs for name in names])


def folds_of(args: argparse.Namespace) -> list[int | None]:
    """The folds that get a folder each; None for the split that --output_dir itself becomes."""
    if args.num_folds:
        return list(range(1, args.num_folds + 1))
    return [1, 2, 3] if args.fold == "all" else [None]


def assign(
    args: argparse.Namespace, videos: list["VideoRecord"], rejected: list["Rejected"], official: dict[int, dict]
) -> list["Split"]:
    """The split of the videos, or its folds."""
    from video_module.data import splits

    settings = {"val_fraction": args.val_fraction, "seed": args.seed}
    if args.num_folds:
        return splits.split_folds(videos, rejected, num_folds=args.num_folds, **settings)
    if any(video.split for video in videos):
        return [splits.split_by_table(videos, rejected, seed=args.seed)]
    if not official:
        return [splits.split_grouped(videos, rejected, test_fraction=args.test_fraction, **settings)]
    return [
        splits.split_official(videos, rejected, sides, protocol=args.protocol, fold=fold, **settings)
        for fold, sides in official.items()
    ]


def read_splits_dir(args: argparse.Namespace) -> Path:
    from video_module.data import archives

    if not archives.is_archive(args.splits_dir):
        return args.splits_dir
    return archives.folder_holding(archives.unpacked(args.splits_dir), "*_test_split?.txt", "trainlist*.txt")


def scan_videos(args: argparse.Namespace, output_dirs: list[Path], official: dict[int, dict]):
    """The videos of --input_dir as they are, those that are rejected, and the folder of classes."""
    from video_module.data import archives, labels, layout, records, splits

    source_of = read_source_of(args)
    input_dir = archives.class_folder(args.input_dir)
    # Whatever can be refused is refused before the videos are decoded, which takes hours for large data sets
    for output_dir in output_dirs:
        layout.check_split_output(input_dir, output_dir)
    if args.num_folds:
        found = [(label, path.relative_to(input_dir).as_posix()) for label, path in labels.find_videos(input_dir)]
        splits.check_sources([(label, source_of(name, label)) for label, name in found], args.num_folds)
    show_others(labels.find_others(input_dir), input_dir)
    if not official and source_of is records.name_source and not args.groups:
        labels.check_level(input_dir)
    videos, rejected, num_unused = records.scan(
        input_dir,
        source_of=source_of,
        wanted=lambda label, name: not official or any((label, name) in fold for fold in official.values()),
        num_workers=args.num_workers,
    )
    if num_unused:
        print(f"skipped {num_unused} videos that the official files do not use")
    show_lost_classes(input_dir, videos, rejected)
    return videos, rejected, input_dir


def show_lost_classes(input_dir: Path, videos, rejected) -> None:
    from video_module.data import labels

    for sentence in labels.lost_classes(input_dir, {video.label for video in videos}, [item.path for item in rejected]):
        print(f"note: {sentence}")


def prepare_videos(args: argparse.Namespace, output_dirs: list[Path], official: dict[int, dict]):
    """The clips of --annotations, or of --input_dir with --short_side, those that are rejected, and their folder."""
    from video_module.data import annotations, archives, labels, layout, preparing, segments, splits

    store = preparing.store_beside(args.output_dir)
    rejected, notes = [], []
    input_dir = args.input_dir
    if args.annotations:
        if input_dir is not None and archives.is_archive(input_dir):
            input_dir = archives.unpacked(input_dir)
        found, rejected, notes = annotations.read_annotations(
            args.annotations,
            input_dir=input_dir,
            class_list=args.class_list,
            source_of=read_source_of(args),
            num_workers=args.num_workers,
        )
        if args.num_folds and any(segment.split for segment in found):
            raise InputError(f"{args.annotations}: its column split says who tests; leave it out, or --num_folds")
    else:
        input_dir = archives.class_folder(input_dir)
        for output_dir in output_dirs:
            layout.check_split_output(input_dir, output_dir)
        show_others(labels.find_others(input_dir), input_dir)
        found = segments.whole_files(input_dir, source_of=read_source_of(args))
    if args.num_folds:
        splits.check_sources([(segment.label, segment.source) for segment in found], args.num_folds)
    if args.background:
        background, more = segments.add_background(found, args.background, seed=args.seed)
        found, notes = found + background, notes + more
    for note in notes:
        print(f"note: {note}")
    segments.check_classes(found)
    for output_dir in output_dirs:
        layout.check_split_output(store, output_dir)
    preparing.check_store(store, found, output_dirs)
    made = preparing.prepare(found, store, short_side=args.short_side, num_workers=args.num_workers)
    show_prepared(made, store)
    if not args.annotations:
        show_lost_classes(input_dir, made.videos, made.rejected)
    return made.videos, rejected + made.rejected, store


def show_prepared(made, store: Path) -> None:
    from video_module.tables import pluralize

    there = f", of which {made.num_found} were there already" if made.num_found else ""
    before = f"{made.bytes_before / 1e6:,.1f} MB and {made.duration_before_s / 60:.1f} min of video"
    after = f"{made.bytes_after / 1e6:,.1f} MB and {made.duration_after_s / 60:.1f} min"
    # Links alone change nothing
    became = before if made.bytes_after == made.bytes_before else f"{before} became {after}"
    print(f"{store}: {pluralize(len(made.videos), 'clip')}{there}, in {made.seconds / 60:.1f} min; {became}")


def show_others(paths: list[Path], input_dir: Path, *, most: int = 5) -> None:
    """Say which files are no part of the split, the first of many."""
    if paths:
        names = ", ".join(path.relative_to(input_dir).as_posix() for path in paths[:most])
        more = ", …" if len(paths) > most else ""
        print(f"skipped {len(paths)} files: not videos, or outside the class folders ({names}{more})")


def suggest_sources(args: argparse.Namespace, videos, input_dir: Path):
    """Where no names tell of sources, or --groups auto asks for it: what seems to be of one recording; else None."""
    from video_module.data import grouping, records

    if args.groups == AUTO:
        found = grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)
        print(grouping.describe(found))
        return found
    if not all(map(records.has_own_source, videos)):
        return None
    print(
        "note: no source in the names: each file counts as its own recording; if some are cuts of one, say so with "
        "--groups or --group_regex, or let --suggest_groups look for them"
    )
    if len(videos) > grouping.MOST_VIDEOS:
        return None
    return grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)


def show_torn_apart(suggested, made: "list[Split]") -> None:
    """Warn where videos that seem to be of one recording would stand on both sides of a split, the first of several."""
    from video_module.data import grouping

    for split in made:
        if torn := grouping.torn_apart(suggested, split.videos):
            print(
                f"warning: {len(torn)} of {len(split.videos_in('test'))} test videos seem to be cut from recordings "
                f"that train or val hold, such as {torn[0][0]} and {torn[0][1]}; --groups auto keeps them together, "
                "--suggest_groups shows them"
            )
            return


def suggest_groups(args: argparse.Namespace) -> None:
    """Write the table of suggested groups, and a picture of each group of two and more."""
    from video_module.data import archives, grouping, records
    from video_module.data.leaks import sources_known
    from video_module.data.thumbnails import read_thumbnails
    from video_module.files import check_output, check_outputs, replacing
    from video_module.report.contact_sheet import Preview, write_preview

    table, sheets = args.suggest_groups, args.suggest_groups.with_name(f"{args.suggest_groups.stem}_sheets")
    check_outputs([("--suggest_groups", table)], [("--groups", args.groups)])
    check_output(sheets, folder=True)
    if sheets.is_dir() and (others := [path for path in sheets.iterdir() if not path.name.startswith("suggested_")]):
        raise InputError(
            f"{sheets}: holds {others[0].name} beside earlier pictures; move it away, or choose another name"
        )
    input_dir = archives.class_folder(args.input_dir)
    videos, rejected, _ = records.scan(input_dir, source_of=read_source_of(args), num_workers=args.num_workers)
    for item in rejected:
        print(f"left out {item.path}: {item.reason}")
    found = grouping.suggest_groups(input_dir, videos, num_workers=args.num_workers)
    grouping.write_suggestions(table, found)
    groups: dict[str, list] = {}
    for video, item in zip(videos, found, strict=True):
        groups.setdefault(item.source, []).append((video, item))

    def previews(members: list) -> Iterator["Preview"]:
        for video, item in members:
            frames = read_thumbnails(input_dir / video.path, num_video_frames=video.num_frames)
            named = {"path": f"{video.path}: {item.basis}", "label": video.label, "names": [f"{item.confidence:.2f}"]}
            yield Preview(clips=[frames], **named)

    with replacing(sheets) as partial:
        partial.mkdir()
        for source, members in groups.items():
            if len(members) > 1:
                shown = f", {MOST_SHOWN} of them" if len(members) > MOST_SHOWN else ""
                title = f"{source}: {len(members)} videos{shown}"
                write_preview(partial / f"{source}.jpg", list(previews(members[:MOST_SHOWN])), title=title)
    print(grouping.describe(found))
    if sources_known(videos):
        print(grouping.describe_agreement(found, [video.source for video in videos]))
    print(f"look at the pictures, correct the column source where it is wrong, then split with --groups {table}")
    cli.show_written([table, sheets])


def show_smallness(split: "Split") -> None:
    """Say what a test on the split can tell, where that is little."""
    from video_module.data.leaks import sources_known
    from video_module.scores import describe_small_test, is_small_test

    test = split.videos_in("test")
    num_sources = len({video.source for video in test}) if sources_known(split.videos) else None
    if is_small_test(len(test), num_sources):
        print(f"note: {describe_small_test(len(test), num_sources)}")


def report(split: "Split") -> None:
    from video_module.data.leaks import sources_known
    from video_module.report.audit import SOURCES_UNKNOWN

    title = split.protocol if split.fold is None else f"{split.protocol} fold {split.fold}"
    print(f"{title}: {len(split.class_names)} classes, digest {split.digest}")
    known = sources_known(split.videos)
    for name in ("train", "val", "test"):
        part = split.videos_in(name)
        print(f"  {name:5} {len(part):6} videos" + f" {len({video.source for video in part}):6} sources" * known)
    print(f"  shared by test and the rest: {split.shared if known else SOURCES_UNKNOWN}")
    for note in split.notes:
        print(f"  note: {note}")


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
