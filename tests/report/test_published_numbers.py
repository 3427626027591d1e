from pathlib import Path

from video_module.report.published import PUBLISHED

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_docs_name_the_paper_of_each_published_number():
    rows = [line.strip("| ").split(" | ") for line in DOCS.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert [tuple(row[:3]) for row in rows if len(row) == 4 and "official split" in row[2]] == list(PUBLISHED)
    assert all(row[3] for row in rows if len(row) == 4)
