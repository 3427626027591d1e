import errno
import json

from video_module.engine import logbook
from video_module.engine.progress import LOG_COLUMNS, Progress


def test_a_table_that_excel_shows_ends_no_run(tmp_path, monkeypatch, capsys):
    """Windows gives it up for nobody; the next epoch writes it again."""
    book, progress = logbook.Logbook(tmp_path / "x.pth"), Progress()
    table = tmp_path / "x_logs.csv"
    replacing = logbook.replacing

    def refuse(path):
        raise PermissionError(errno.EACCES, "another program has it open", str(path))

    for number, shows in enumerate((True, False), start=1):
        progress.append(dict.fromkeys(LOG_COLUMNS, 0.5) | {"epoch": number})
        monkeypatch.setattr(logbook, "replacing", refuse if shows else replacing)
        book.write(progress)
        assert table.exists() != shows
        assert json.loads((tmp_path / "x_logs.json").read_text(encoding="utf-8"))["epoch"] == [1, 2][:number]
    assert capsys.readouterr().out == f"{table}: not written after this epoch: another program has it open\n"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3
