"""Format the result of a search for leaks."""

from typing import Any

from video_module.tables import pluralize

RECORDINGS_UNKNOWN = "unknown, because the file names do not tell; --suggest_groups looks for them"
# Number of near-identical pairs to show. The JSON file has all.
_NUM_PAIRS = 10


def format_audit(found: dict[str, Any]) -> str:
    """Format the result of leaks.audit() in lines."""
    lines = [f"not compared: {item['path']}: {item['reason']}" for item in found["rejected"]]
    for pair in found["comparisons"]:
        # The last line explains why
        lines += _comparison(pair, unknown="unknown" if "test" in found else RECORDINGS_UNKNOWN)
    if "random_split" in found:
        lines += [_random_split(found["random_split"]), *_near(found["near_identical"])]
    if "test" in found:
        lines.append(_verdict(found["test"]))
    return "\n".join(lines)


def _verdict(test: dict[str, Any]) -> str:
    """Summarise the test split in one line. Recordings shared across classes are not called a leak: HMDB51 has them."""
    if not test["sources_known"]:
        return f"recordings shared by test and the rest: {RECORDINGS_UNKNOWN}"
    within, across = test["sources"]["test_clips_within_class"], test["sources"]["test_clips_across_classes"]
    text = (
        f"{within} of {test['num_videos']} test videos share a recording with train or val within their class, "
        f"{across} across classes"
    )
    return f"{text}: the test will look too good; split again by recording with split_data.py" if within else text


def _comparison(pair: dict[str, Any], *, unknown: str) -> list[str]:
    sources, names = pair["sources"], pair["same_name"]
    recordings = unknown
    if pair["sources_known"]:
        recordings = (
            f"{sources['test_clips_within_class']} within a class ({sources['sources_within_class']} recordings), "
            f"{sources['test_clips_across_classes']} across classes ({sources['sources_across_classes']})"
        )
    return [
        f"{pair['second']} ({pair['num_videos'][1]} videos) against {pair['first']} ({pair['num_videos'][0]})",
        f"  same recording    {recordings}",
        f"  same file name    {names['within_class']} within a class, {names['across_classes']} across classes",
        *_near(pair["near_identical"]),
    ]


def _random_split(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no estimate for a random split: no class has two videos that decode, or --test_fraction is 0"
    if not found["sources_known"]:
        return f"{found['num_videos']} videos; recordings shared by a random split: {RECORDINGS_UNKNOWN}"
    fractions = ", ".join(f"{100 * share:.4g} % {name}" for name, share in found["fractions"].items())
    return (
        f"{found['num_videos']} videos of {found['num_sources']} recordings; split at random, video by video, "
        f"{found['test_share_within_class']:.1%} of the test videos would have their recording in train or val in the "
        f"same class, {found['test_share_any_class']:.1%} in any class (mean of {found['num_draws']} draws of "
        f"{fractions}, with at least one test video of each class)"
    )


def _near(pairs: list[dict[str, Any]] | None) -> list[str]:
    if pairs is None:
        return ["  near identical    not checked (--no-content)"]
    within = sum(pair["same_class"] for pair in pairs)
    lines = [f"  near identical    {pluralize(within, 'pair')} within a class, {len(pairs) - within} across classes"]
    for pair in pairs[:_NUM_PAIRS]:
        source = "" if pair["same_source"] else ", different recording"
        lines.append(f"    {pair['first']}  {pair['second']}  {pair['distance']:.1%} of the hash differs{source}")
    if len(pairs) > _NUM_PAIRS:
        lines.append(f"    and {len(pairs) - _NUM_PAIRS} more; --save_to writes all")
    return lines
