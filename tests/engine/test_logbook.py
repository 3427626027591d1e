import errno
import json
import subprocess
import sys
import types

from video_module.engine import logbook
from video_module.engine.progress import LOG_COLUMNS, Progress
from video_module.report.curves import plot_curves


def test_a_table_that_excel_shows_ends_no_run(tmp_path, monkeypatch, capsys):
    """Windows does not replace a file that is open in Excel, but the next epoch writes it again."""
    book, progress = logbook.Logbook(tmp_path / "x.pth", plot_curves=plot_curves), Progress()
    table = tmp_path / "x_logs.csv"
    replacing = logbook.replacing

    def refuse(path):
        raise PermissionError(errno.EACCES, "it is open in another program", str(path))

    for number, shows in enumerate((True, False), start=1):
        progress.append(dict.fromkeys(LOG_COLUMNS, 0.5) | {"epoch": number})
        monkeypatch.setattr(logbook, "replacing", refuse if shows else replacing)
        book.write(progress)
        assert table.exists() != shows
        assert json.loads((tmp_path / "x_logs.json").read_text(encoding="utf-8"))["epoch"] == [1, 2][:number]
    assert capsys.readouterr().out == f"{table}: not written after this epoch: it is open in another program\n"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 3


def test_what_a_killed_run_left_half_written_goes(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for name in (".x_logs.partial-{}.json", ".x_logs.partial-{}.csv", ".x_curves.partial-{}.png"):
        (tmp_path / name.format(int(gone.stdout))).touch()
    progress = Progress()
    progress.append(dict.fromkeys(LOG_COLUMNS, 0.5) | {"epoch": 1})
    logbook.Logbook(tmp_path / "x.pth", plot_curves=plot_curves).write(progress)
    assert {path.name for path in tmp_path.iterdir()} == {"x_logs.json", "x_logs.csv", "x_curves.png"}


def test_tensorboard_is_told_each_epoch_once(tmp_path, monkeypatch):
    """The first write of a resumed run discards what TensorBoard has and writes all epochs; later ones add to them."""
    told = []

    class Board:
        def __init__(self, folder, purge_step=None):
            told.append(("drop from", purge_step))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_scalar(self, name, value, global_step):
            told.append((name, global_step))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    book, progress = logbook.Logbook(tmp_path / "x.pth", plot_curves=plot_curves, tensorboard=True), Progress()
    for epoch in range(1, 5):
        progress.append({"epoch": epoch, "lr": 0.5, "val_top1": 0.5, "val_loss": 1.0})
        if epoch >= 2:  # the run is resumed after the second epoch
            book.write(progress)
    names = ("lr/run", "loss/val", "top1/val")
    expected = [
        [("drop from", None if epoch > 2 else 1), *((name, e) for e in epochs for name in names)]
        for epoch, epochs in ((2, (1, 2)), (3, (3,)), (4, (4,)))
    ]
    assert told == [entry for part in expected for entry in part]
