import csv
import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import convert_model
import test_model
from video_module.config import ClipConfig, TimelineConfig
from video_module.data import records
from video_module.data.decoding import VideoReader
from video_module.data.encoding import write_video
from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint, save_checkpoint
from video_module.errors import InputError
from video_module.inference.export import metadata_of, save_onnx, trace
from video_module.inference.predictor import METADATA_KEY, Predictor, VideoPrediction, Window, describe, load_predictor
from video_module.inference.timeline import UNCERTAIN, find_segments
from video_module.scores import softmax


def read_scores(predictions_csv: Path) -> dict[str, list[float]]:
    """Return the scores of each video from X_predictions.csv, in the order of its class columns."""
    with open(predictions_csv, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:5] == ["video", "label", "prediction", "score", "source"]
    return {row[0]: [float(value) for value in row[5:]] for row in rows}


@pytest.fixture(scope="module")
def clips(exported) -> np.ndarray:
    shape = load_predictor(exported).clip.shape
    return np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)


def test_torch_and_onnx_agree_at_any_batch_size(trained, exported, clips):
    torch_logits = load_predictor(trained, device="cpu").score_clips(clips)
    predictor = load_predictor(exported)
    for size in (1, 2, 3, 5):
        logits = np.concatenate([predictor.score_clips(clips[i : i + size]) for i in range(0, 5, size)])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, torch_logits, rtol=0, atol=1e-4)


def test_an_onnx_file_has_the_metadata_of_its_checkpoint(trained, exported):
    from_onnx, from_torch = load_predictor(exported), load_predictor(trained, device="cpu")
    for name in ("model", "class_names", "clip", "split_digest", "train_sources", "train_clips", "weights"):
        assert getattr(from_onnx, name) == getattr(from_torch, name), name
    assert from_onnx.split_digest is not None
    assert len(from_onnx.train_clips) == 30


def test_describe(exported, capsys):
    convert_model.main(["--describe", str(exported)])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(describe(exported)))
    assert printed["inputs"] == [{"name": "clips", "type": "tensor(uint8)", "shape": ["N", 8, 64, 64, 3]}]
    assert printed["outputs"] == [{"name": "logits", "type": "tensor(float)", "shape": ["N", 6]}]
    assert printed["class_names"] == ["jump", "pull", "push", "sit", "stand", "wave"]


def test_describe_a_checkpoint(trained, capsys):
    convert_model.main(["--describe", str(trained)])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["model"], printed["epoch"], printed["train_clips"]) == ("swin3d_nano", 2, 30)
    assert printed["train_config"]["num_epochs"] == 2 and "weights" not in printed


def test_wrong_clips_are_refused(exported, clips):
    predictor = load_predictor(exported)
    for wrong in (clips.astype(np.float32), clips[:, :4], clips[0]):
        with pytest.raises(ValueError, match="clips must be uint8"):
            predictor.predict_clips(wrong)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_of_a_video_do_not_depend_on_batch_size(exported, drawn_data, batch_size):
    video = next((drawn_data / "test").rglob("*.avi"))
    predictor = load_predictor(exported)
    seen = []
    prediction = predictor.predict_video(
        video, clip_step=3, batch_size=batch_size, on_progress=lambda done, total: seen.append((done, total))
    )
    reference = predictor.predict_video(video, clip_step=3)
    np.testing.assert_allclose(prediction.scores, reference.scores, rtol=0, atol=1e-6)
    assert prediction.num_frames == records.probe_video(video)[0]
    assert seen[-1] == (prediction.num_frames, prediction.num_frames)
    assert abs(prediction.scores.sum() - 1) < 1e-9


def test_scores_match_evaluation(exported, drawn_data, tmp_path):
    """predict_video() gives the scores of `test_model.py --sampling windows --num_crops 1`."""
    test_model.main(
        ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(exported), "--output_dir", str(tmp_path)]
        + ["--sampling", "windows", "--num_crops", "1", "--num_workers", "0"]
    )
    predictor = load_predictor(exported)
    evaluated = read_scores(tmp_path / "nano_onnx_predictions.csv")
    assert len(evaluated) == 6
    for video, scores in evaluated.items():
        served = predictor.predict_video(drawn_data / "test" / video).scores
        np.testing.assert_allclose(scores, served, rtol=0, atol=1e-5)


def test_onnx_files_of_other_projects_are_refused(exported, tmp_path):
    proto = onnx.load(exported)
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match=r"not written by convert_model.py"):
        load_predictor(tmp_path / "other.onnx")
    onnx.helper.set_model_props(proto, {METADATA_KEY: "{}"})
    onnx.save(proto, str(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match="metadata cannot be read"):
        load_predictor(tmp_path / "other.onnx")


@pytest.mark.parametrize("device", ["banana", "cuda:", "gpu"])
def test_unknown_devices_are_refused(trained, exported, device):
    for model in (trained, exported):
        with pytest.raises(InputError, match=f"--device {device}: .*use auto|--device {device}: torch runs on auto"):
            load_predictor(model, device=device)


@pytest.mark.parametrize(
    ("name", "content"), [("x.onnx", b"not onnx"), ("x.onnx", b""), ("x.txt", b"a"), ("x.pth", b"a")]
)
def test_files_that_are_not_models_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        load_predictor(tmp_path / name)


def test_a_truncated_onnx_file_is_refused(exported, tmp_path):
    whole = exported.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.onnx"):
        load_predictor(tmp_path / "cut.onnx")


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """Keeping all 6,000 frames at the model's input size would take 29 MB."""
    clip = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)
    predictor = Predictor(
        model="m", class_names=["a", "b"], clip=clip, score_clips=lambda clips: np.zeros((len(clips), 2)), device="cpu"
    )
    peaks = []
    for num_frames in (300, 6000):
        path = tmp_path / f"{num_frames}.avi"
        write_video(path, (np.zeros((48, 64, 3), np.uint8) for _ in range(num_frames)), fps=25)
        tracemalloc.start()
        prediction = predictor.predict_video(path, clip_step=5)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert prediction.num_frames == num_frames
    assert peaks[1] - peaks[0] < 2e6


def test_scoring_can_stop_early(exported, drawn_data):
    predictor = load_predictor(exported)
    video = next((drawn_data / "test").rglob("*.avi"))
    whole = predictor.predict_video(video, clip_step=1)
    scored = predictor.score_windows(VideoReader(video), clip_step=1, batch_size=2)
    first = next(scored)
    scored.close()
    assert [window.start for window in first] == [0, 1]
    assert first[1].scores == pytest.approx(whole.windows[1].scores, abs=1e-6)


def test_temperature_and_min_score_of_a_file_are_used(trained, tmp_path):
    """Checkpoints and ONNX files behave alike; logits do not change."""
    plain = replace(load_checkpoint(trained), temperature=1.0, min_score=None)
    sharp = replace(plain, temperature=0.5, min_score=0.99)
    clips = np.random.default_rng(0).integers(0, 256, (2, *plain.clip.shape), np.uint8)
    predictors = []
    for name, checkpoint in (("plain", plain), ("sharp", sharp)):
        save_checkpoint(tmp_path / f"{name}.pth", checkpoint)
        graph = trace(build_from_checkpoint(checkpoint))
        save_onnx(graph, tmp_path / f"{name}.onnx", metadata_of(checkpoint, precision="fp32", opset=20))
        predictors.append([load_predictor(tmp_path / f"{name}{kind}", device="cpu") for kind in (".pth", ".onnx")])
    logits = predictors[0][0].score_clips(clips)
    assert [p.min_score for pair in predictors for p in pair] == [0.3, 0.3, 0.99, 0.99]
    for before, after in zip(*predictors, strict=True):
        np.testing.assert_allclose(after.score_clips(clips), logits, atol=1e-4)
        np.testing.assert_allclose(before.predict_clips(clips), softmax(logits), atol=1e-5)
        np.testing.assert_allclose(after.predict_clips(clips), softmax(2 * logits), atol=1e-5)
        windows = [Window(start=0, end=8, scores=after.predict_clips(clips)[0])]
        prediction = VideoPrediction(
            path=tmp_path / "x.avi",
            fps=25.0,
            num_frames=8,
            class_names=after.class_names,
            windows=windows,
            min_score=after.min_score,
        )
        assert [s.label for s in find_segments(prediction)] == [UNCERTAIN]
        assert [s.label for s in find_segments(prediction, TimelineConfig(min_score=0.0))] != [UNCERTAIN]


def test_weights_that_are_not_finite_are_an_error(trained, tmp_path):
    """They used to fail with a traceback when the JSON was written, after all videos had been scored."""
    checkpoint = load_checkpoint(trained)
    for weight in checkpoint.weights.values():
        if weight.is_floating_point():
            weight.fill_(math.nan)
    save_checkpoint(tmp_path / "nan.pth", checkpoint)
    predictor = load_predictor(tmp_path / "nan.pth")
    with pytest.raises(InputError, match="swin3d_nano: the scores are not finite; train or export"):
        predictor.predict_clips(np.zeros((1, *predictor.clip.shape), np.uint8))
