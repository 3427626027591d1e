"""Text in columns."""

from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[str]], *, left: Collection[int] = (), indent: str = "  ") -> str:
    """Rows of equally many cells as lines, each column as wide as it must be, those in `left` flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        indent
        + "  ".join(
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
