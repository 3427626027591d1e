from video_module.data.audit import SharedSources, shared_sources


def test_counts_within_and_across_classes():
    train = [("wave", "Film"), ("wave", "Film"), ("run", "Other"), ("sit", "Alone")]
    test = [
        ("wave", "Film"),  # same class
        ("wave", "Film"),
        ("run", "Film"),  # another class
        ("sit", "Other"),
        ("sit", "New"),
    ]
    assert shared_sources(train, test) == SharedSources(
        sources_within_class=1, test_clips_within_class=2, sources_across_classes=2, test_clips_across_classes=2
    )


def test_nothing_shared():
    assert shared_sources([("a", "x")], [("a", "y"), ("b", "z")]) == SharedSources(0, 0, 0, 0)
