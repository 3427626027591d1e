import json
import math
import re
import statistics

import pytest

import calc_label_distribution
import split_data
import train_model
from tests.conftest import link
from video_module.config import ClipConfig
from video_module.data import distribution, sampling
from video_module.data.distribution import label_distribution
from video_module.data.records import VideoRecord, load_videos
from video_module.errors import InputError

CLIP = ClipConfig(num_frames=8, frame_stride=2)


def counts_of(data_dir, split="all"):
    counted, _ = label_distribution(data_dir, clip=CLIP, num_workers=2)
    return {name: row["num_videos"] for name, row in counted["splits"][split]["classes"].items()}


def test_a_split_from_the_shell(drawn_data, tmp_path, capsys):
    calc_label_distribution.main(
        ["--data_dir", str(drawn_data), "--save_to", str(tmp_path / "d.json")]
        + ["--clip_len", "8", "--frame_stride", "2", "--clip_step", "5"]
    )
    written = json.loads((tmp_path / "d.json").read_text())
    assert {split: content["num_videos"] for split, content in written["splits"].items()} == {
        "train": 24,
        "val": 6,
        "test": 6,
    }
    videos = load_videos(drawn_data / "train", num_workers=1)
    wave = [video for video in videos if video.label == "wave"]
    assert written["splits"]["train"]["classes"]["wave"] == {
        "num_videos": 4,
        "num_clips": sum(len(sampling.window_starts(video.num_frames, CLIP, 5)) for video in wave),
        "duration_s": pytest.approx(sum(video.num_frames / video.fps for video in wave)),
        "share": pytest.approx(1 / 6),
    }
    lengths_s = [
        video.num_frames / video.fps
        for part in ("train", "val", "test")
        for video in load_videos(drawn_data / part, num_workers=1)
        if video.label == "wave"
    ]
    described = written["classes"]["wave"]
    assert described["num_sources"] == 6
    assert described["length_s"]["shortest"] == pytest.approx(min(lengths_s), abs=0.001)
    assert described["length_s"]["median"] == pytest.approx(statistics.median(lengths_s), abs=0.001)
    assert written["splits"]["train"]["num_sources"] == 4
    assert written["splits"]["train"]["imbalance"]["effective_num_classes"] == pytest.approx(6)
    assert sum(written["splits"]["val"]["tags"]["viewpoint"].values()) == 6
    assert (tmp_path / "d.png").stat().st_size > 5000
    out = capsys.readouterr().out
    assert "24 videos from 4 recordings, " in out
    assert re.search(r"^wave +4 +1 +1 +6 +\d\.\d\d s +\d\.\d\d s +\d\.\d\d s$", out, flags=re.MULTILINE)


def test_recordings_that_nothing_tells_are_not_counted(drawn_clips, tmp_path, capsys):
    """Each file would count as a recording of its own."""
    for label in ("sit", "wave"):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number, video in enumerate(sorted((drawn_clips / label).iterdir())):
            link(tmp_path / "clips" / label / f"{number}.avi", video)
    calc_label_distribution.main(["--data_dir", str(tmp_path / "clips"), "--save_to", str(tmp_path / "d.json")])
    written = json.loads((tmp_path / "d.json").read_text())
    assert [described["num_sources"] for described in (*written["classes"].values(), written["splits"]["all"])] == [
        None
    ] * 3
    out = capsys.readouterr().out
    assert "12 videos (recordings unknown), " in out
    assert re.search(r"^wave +6 +- +\d\.\d\d s ", out, flags=re.MULTILINE)


def test_a_bare_folder(drawn_clips):
    assert counts_of(drawn_clips)["wave"] == 6


def test_broken_files_are_named_not_counted(drawn_clips, tmp_path):
    (tmp_path / "wave").mkdir()
    sound = next((drawn_clips / "wave").iterdir())
    link(tmp_path / "wave" / "a.avi", sound)
    (tmp_path / "wave" / "b.avi").write_bytes(b"text")
    counted, [rejected] = label_distribution(tmp_path, clip=CLIP, num_workers=1)
    assert counted["splits"]["all"]["num_videos"] == 1
    assert rejected.path == "wave/b.avi"
    assert counted["splits"]["all"]["tags"] is None  # "a" is no name of HMDB51's


def test_an_empty_split_counts_nothing(drawn_clips, tmp_path):
    out = tmp_path / "data"
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(out), "--val_fraction", "0"])
    counted, _ = label_distribution(out, clip=CLIP, num_workers=1)
    assert set(counted["splits"]) == {"train", "test"}
    assert sum(content["num_videos"] for content in counted["splits"].values()) == 36


def test_a_class_called_train_is_a_class(drawn_clips, tmp_path):
    link(tmp_path / "train", drawn_clips / "wave")
    link(tmp_path / "plane", drawn_clips / "sit")
    assert counts_of(tmp_path) == {"plane": 6, "train": 6}


def test_imbalance():
    assert distribution.imbalance([5, 5, 5]) == {
        "largest": 5,
        "smallest": 5,
        "ratio": 1,
        "effective_num_classes": pytest.approx(3),
    }
    uneven = distribution.imbalance([90, 10, 0])
    assert uneven["ratio"] is None
    assert uneven["effective_num_classes"] == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([6, 6], "all classes equal"),
        ([30, 10], "largest class 30, smallest 10 (ratio 3.0); effective number of classes: 1.8 of 2"),
        ([4, 0], "largest class 4, a class is empty; effective number of classes: 1.0 of 2"),
    ],
)
def test_imbalance_in_words(counts, text):
    words = calc_label_distribution.describe_balance(distribution.imbalance(counts), len(counts))
    assert words.startswith(text)


def test_tags_of_hmdb51_names():
    names = ["Film_wave_u_nm_np1_fr_goo_0.avi", "Film_wave_f_cm_np2_ba_med_1.avi", "Film_wave_f_cm_np10_ba_bad_2.avi"]
    videos = [VideoRecord(path=f"wave/{name}", label="wave", source="s", num_frames=30, fps=30) for name in names]
    tags = distribution.count_videos(videos, ["wave"], clip=CLIP, clip_step=None)["tags"]
    assert tags["camera motion"] == {"still": 1, "moving": 2}
    assert tags["number of people"] == {"0": 0, "1": 1, "2": 1, "3": 0, "4 or more": 1}


def test_weights_balance_the_classes():
    weights = distribution.class_weights({"a": 30, "b": 10})
    assert weights == {"a": pytest.approx(2 / 3), "b": 2}
    with pytest.raises(InputError, match="class 'b' has no training video"):
        distribution.class_weights({"a": 3, "b": 0})


@pytest.mark.parametrize("flag", ["--save_to", "--examples", "--class_weights"])
def test_outputs_are_checked_before_videos_are_read(drawn_data, tmp_path, monkeypatch, flag):
    monkeypatch.setattr(distribution, "label_distribution", lambda *_, **__: pytest.fail("hours of decoding"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").mkdir()
    name = "x.json" if flag == "--save_to" else "x.png"  # the PNG beside it
    with pytest.raises(InputError, match=r"x\.png: is a directory"):
        calc_label_distribution.main(["--data_dir", str(drawn_data), flag, name])


def test_weights_from_one_script_to_the_other(drawn_data, tmp_path):
    weights, flags = tmp_path / "weights.json", ["--data_dir", str(drawn_data), "--save_to", str(tmp_path / "d.json")]
    calc_label_distribution.main([*flags, "--class_weights", str(weights)])
    names = json.loads((tmp_path / "d.json").read_text())["class_names"]
    assert distribution.read_class_weights(weights, names) == [1.0] * 6
    content = {"class_weights": dict.fromkeys(names, 0.5) | {"wave": 3.5}}
    weights.write_text(json.dumps(content))
    assert distribution.read_class_weights(weights, names) == [3.5 if name == "wave" else 0.5 for name in names]
    command = ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--num_epochs", "1", "--num_workers", "0"]
    command += ["--device", "cpu", "--save_path", str(tmp_path / "m.pth")]
    train_model.main([*command, "--class_weights", str(weights)])
    with pytest.raises(InputError, match=r"with other --class_weights;"):
        train_model.main([*command, "--resume"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "not JSON"),
        ("{}", "has no class_weights"),
        ('{"class_weights": {"a": 1}}', "written for other classes: 'b'"),
        ('{"class_weights": {"a": 1, "b": 0}}', "the weight of 'b' must be a positive number, got 0"),
    ],
)
def test_weights_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(InputError, match=message):
        distribution.read_class_weights(tmp_path / "w.json", ["a", "b"])


def test_the_clips_are_those_of_a_model_and_it_is_named(drawn_data, tmp_path, capsys):
    flags = ["--data_dir", str(drawn_data), "--save_to", str(tmp_path / "x.json")]
    for more, expected in (
        ([], "clips for swin3d_b: 32 frames, stride 2, one every 31 frames"),
        (["--model_type", "r3d_18"], "clips for r3d_18: 16 frames, stride 1 at 15 frames/s, one every 8 frames"),
        (["--model_type", "swin3d_nano", "--clip_len", "4"], "clips for swin3d_nano: 4 frames, stride 4, one"),
    ):
        calc_label_distribution.main([*flags, *more])
        assert expected in capsys.readouterr().out
