import numpy as np
import pytest
from PIL import Image

from video_module.errors import InputError
from video_module.report import contact_sheet
from video_module.report.contact_sheet import Preview, Strip, worst_videos, write_contact_sheet


def strip(level: int, *, label: str = "sit", prediction: str = "stand", size=(48, 64), count: int = 5) -> Strip:
    frames = np.full((count, *size, 3), level, np.uint8)
    return Strip(
        path=f"{label}/{level}.avi", label=label, prediction=prediction, score=0.7, label_score=0.2, frames=frames
    )


def test_wrong_videos_come_first_the_worst_on_top():
    scores = np.array([[0.1, 0.5, 0.4], [0.2, 0.7, 0.1], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33], [0.3, 0.3, 0.4]])
    labels = np.array([0, 0, 0, 0, 1])
    # 0.1 and 0.2 and 0.3 are wrong; 0.34 and 0.9 are right
    assert worst_videos(scores, labels, count=9) == [0, 1, 4, 3, 2]
    assert worst_videos(scores, labels, count=2) == [0, 1]


def test_all_frames_of_all_videos_are_on_the_sheet(tmp_path):
    strips = [strip(40), strip(90, size=(48, 27), count=4), strip(200, label="sit", prediction="sit")]
    write_contact_sheet(tmp_path / "sheet.png", strips, title="worst")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for level, pixels in ((40, 5 * 48 * 64), (90, 4 * 48 * 27), (200, 5 * 48 * 64)):
        assert (sheet == level).all(axis=-1).sum() == pytest.approx(pixels, rel=0.01)


def test_long_and_foreign_names_stay_on_the_sheet(tmp_path):
    name = "ёлка и ещё очень-очень длинное название действия " * 4
    write_contact_sheet(tmp_path / "a.png", [strip(40)], title="worst")
    write_contact_sheet(tmp_path / "b.png", [strip(40, label=name, prediction=f"<b>&{name}")], title=name)
    short, long = (np.asarray(Image.open(tmp_path / f"{which}.png")) for which in "ab")
    assert short.shape == long.shape
    assert (long[:, -20:] == 255).all()  # the margin stays free


def test_a_preview_shows_its_clips_below_each_other_behind_their_names():
    clips = [np.full((8, 64, 64, 3), level, np.uint8) for level in (50, 150)]

    def picture(*names: str) -> np.ndarray:
        return Preview(title="sit", note="sit/1.avi", clips=clips, names=names).picture(num_thumbnails=4, height=64)

    one, other = picture("evaluation", "epoch 1"), picture("evaluation", "epoch 2")
    for level in (50, 150):
        rows, columns = np.nonzero((one == level).all(axis=-1))
        assert len(rows) >= 4 * 64 * 64
        assert columns.max() == one.shape[1] - 1
    differing = np.nonzero((one != other).any(axis=-1))
    assert differing[0].min() >= 64  # the second row's name
    assert differing[1].max() < one.shape[1] - 4 * 64
    with pytest.raises(ValueError, match="zip"):
        picture("evaluation")


def test_without_a_name_a_clip_has_the_whole_row():
    clips = [np.full((4, 64, 64, 3), 50, np.uint8)]
    [plain, named] = [Preview(title="", note="", clips=clips, names=[name]).picture() for name in ("", "a")]
    assert plain.shape[1] == 4 * 96 + 3 * 4 < named.shape[1]


def test_groups_get_a_picture_each_of_their_first_videos(tmp_path):
    read = []

    def member(name: str):
        def preview() -> Preview:
            read.append(name)
            return Preview(title=name, note="", clips=[np.zeros((2, 8, 8, 3), np.uint8)], names=[""])

        return preview

    groups = {f"suggested_{size}": [member(f"{size}/{number}") for number in range(size)] for size in (1, 2, 25)}
    folder = tmp_path / "sheets"
    contact_sheet.write_group_sheets(folder, groups)
    assert sorted(path.name for path in folder.iterdir()) == ["suggested_2.jpg", "suggested_25.jpg"]
    assert read == ["2/0", "2/1", *(f"25/{number}" for number in range(24))]
    contact_sheet.check_group_sheets(folder)
    (folder / "mine.txt").touch()
    with pytest.raises(InputError, match=r"sheets: contains mine\.txt besides earlier pictures"):
        contact_sheet.check_group_sheets(folder)
