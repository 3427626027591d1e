"""Tests of exported files in three precisions, and of the checks that a file must pass to be kept."""

import errno
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import convert_model
from video_module.data.encoding import write_video
from video_module.data.labels import find_videos
from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint, save_checkpoint
from video_module.errors import InputError
from video_module.inference import export, precisions
from video_module.inference.predictor import describe, load_predictor
from video_module.inference.verification import BATCH_SIZES, extreme_clips
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import get_spec

ENDS = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}


@pytest.fixture(scope="module")
def graph(trained) -> onnx.ModelProto:
    return export.trace(build_from_checkpoint(load_checkpoint(trained)))


@pytest.fixture(scope="module")
def files(trained, graph, drawn_data, tmp_path_factory) -> dict:
    """Return the exported files by precision, and the report.

    The thresholds are low, since a model trained for two epochs has near ties.
    """
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace", lambda model, opset: graph)
        convert_model.main(
            ["--checkpoint", str(trained), "--output_dir", str(folder), "--precision", "int8", "fp32", "fp16"]
            + ["--verify_dir", str(drawn_data / "test"), "--num_verify_clips", "20"]
            + ["--fp16_agreement", "0.9", "--int8_agreement", "0.7"]
        )
    paths = {precision: folder / f"nano{end}.onnx" for precision, end in ENDS.items()}
    assert sorted(folder.iterdir()) == sorted([*paths.values(), folder / "nano_export.json"])  # no other files
    return paths | {"report": json.loads((folder / "nano_export.json").read_text())}


@pytest.fixture
def traced(graph, monkeypatch) -> None:
    """Replace tracing, which takes seconds, by the graph traced before."""
    monkeypatch.setattr(export, "trace", lambda model, opset: graph)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.3)])
def test_every_file_matches_torch_at_any_batch_size(trained, files, precision, tolerance):
    onnx.checker.check_model(str(files[precision]), full_check=True)
    predictor = load_predictor(files[precision], split_batches=False)
    assert predictor.precision == precision
    rng = np.random.default_rng(0)
    clips = np.concatenate([rng.integers(0, 256, (5, *predictor.clip.shape), np.uint8), extreme_clips(predictor.clip)])
    expected = load_predictor(trained, device="cpu").score_clips(clips)
    for size in BATCH_SIZES:
        logits = np.concatenate([predictor.score_clips(clips[i : i + size]) for i in range(0, 8, size)])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_report_of_the_verification(files, drawn_data):
    report = files["report"]
    num_videos = len(find_videos(drawn_data / "test"))
    assert report["clips"] == f"clips of {num_videos} videos in {drawn_data / 'test'}"
    assert report["num_clips"] == 20
    assert report["batch_sizes"] == [1, 2, 3, 8]
    assert [file["precision"] for file in report["files"]] == ["fp32", "fp16", "int8"]
    for file in report["files"]:
        path = files[file["precision"]]
        assert file["path"] == str(path)
        assert file["failure"] is None
        assert file["size_mb"] * 1e6 == path.stat().st_size
        assert file["num_nodes"] == len(onnx.load(path).graph.node)
        assert file["agreement"]["accuracy"] is not None
        for size in ("1", "4"):
            latency = file["latency"]["cpu"][size]
            assert 0 < latency["median_ms"] <= latency["p95_ms"]
            assert latency["num_runs"] >= 5
    sizes = {file["precision"]: file["size_mb"] for file in report["files"]}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]


def _types(path) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    values = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_fp16_keeps_sensitive_operators_in_fp32(files):
    graph, types = onnx.load(files["fp16"]).graph, _types(files["fp16"])
    assert [types["clips"], graph.output[0].type.tensor_type.elem_type] == [
        onnx.TensorProto.UINT8,
        onnx.TensorProto.FLOAT,
    ]
    seen = set()
    for node in graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceMean", "Sub", "Div"):
            assert types[node.input[0]] == onnx.TensorProto.FLOAT, node.name
        elif node.op_type in ("MatMul", "Gemm", "Conv"):
            assert {types[name] for name in node.input} == {onnx.TensorProto.FLOAT16}, node.name
        seen.add(node.op_type)
    assert {"Softmax", "LayerNormalization", "Sub", "MatMul", "Gemm", "Conv"} <= seen


def test_int8_quantises_linear_layers_per_channel(files):
    graph = onnx.load(files["int8"]).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantised = [node for node in graph.node if node.op_type == "MatMulInteger"]
    original = onnx.load(files["fp32"]).graph
    weights = {tensor.name for tensor in original.initializer}
    layers = [node for node in original.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
    assert len(quantised) == len(layers) > 10
    for node in quantised:
        weight = constants[node.input[1]]
        assert weight.dtype == np.int8
        assert np.abs(weight.astype(int)).max() <= 64  # the sum of two 7-bit times 8-bit products fits into 16 bits
        assert constants[node.input[3]].shape in ((), (weight.shape[1],))
    scales = [value for name, value in constants.items() if name.endswith("_scale")]
    assert all(scale.ndim == 1 for scale in scales)
    assert not [node for node in graph.node if node.op_type == "ConvInteger"]


@pytest.fixture(scope="module")
def convolutional() -> tuple[Recognizer, onnx.ModelProto]:
    """Return a 3D ResNet with random batch norm statistics, as after training, and its ONNX graph."""
    clip = get_spec("r3d_18").clip_config(clip_len=8, img_size=32)
    model = build_model("r3d_18", num_classes=5, clip=clip).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, export.trace(model)


@pytest.mark.slow
def test_int8_stores_convolutions_per_channel(convolutional):
    model, fp32 = convolutional
    int8 = precisions.to_int8(fp32)
    onnx.checker.check_model(int8, full_check=True)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    originals = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in fp32.graph.initializer}
    stored = {node.output[0]: node for node in int8.graph.node if node.op_type == "DequantizeLinear"}
    first, *others = [node.input[1] for node in fp32.graph.node if node.op_type == "Conv"]
    assert first in constants
    assert set(stored) == set(others)
    for name, node in stored.items():
        levels, scale = constants[node.input[0]], constants[node.input[1]]
        assert levels.dtype == np.int8
        assert scale.shape == levels.shape[:1]
        scale = scale.reshape(-1, 1, 1, 1, 1)
        assert (np.abs(levels * scale - originals[name]) <= scale / 2 * 1.001).all()
        assert name not in constants
    assert int8.ByteSize() < 0.27 * fp32.ByteSize()
    clips = np.random.default_rng(0).integers(0, 256, (2, *model.clip.shape), np.uint8)
    logits = [
        onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"clips": clips})[0] for proto in (fp32, int8)
    ]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05 * np.abs(logits[0]).max()


@pytest.mark.slow
def test_batch_norms_are_fused_into_convolutions(convolutional):
    kinds = [node.op_type for node in convolutional[1].graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 20
    assert len(kinds) <= 60


@pytest.mark.slow
def test_size_and_number_of_nodes_of_swin3d_t():
    """Check the limits on the model that users export, rather than on a small one."""
    model = build_model("swin3d_t", num_classes=51).eval()
    proto = export.trace(model)
    kinds = [node.op_type for node in proto.graph.node]
    assert not {"ScatterND", "Split", "Where"} & set(kinds)
    # Slices only divide the activations of patch merging: weights are already divided.
    assert kinds.count("Slice") == 18
    assert len(kinds) <= 550
    parameters = sum(weight.numel() * 4 for weight in model.parameters())
    assert proto.ByteSize() <= 1.05 * parameters


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_opsets(trained, tmp_path, opset):
    flags = ["--output_dir", str(tmp_path), "--num_verify_clips", "8", "--opset", str(opset)]
    convert_model.main(["--checkpoint", str(trained), *flags])
    proto = onnx.load(tmp_path / "nano.onnx")
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [opset]
    assert describe(tmp_path / "nano.onnx")["opset"] == opset


def test_a_file_that_fails_its_check_is_deleted(trained, traced, tmp_path, capsys):
    (tmp_path / "nano.onnx").write_bytes(b"an older file, which could be mistaken for this one")
    flags = ["--checkpoint", str(trained), "--output_dir", str(tmp_path), "--precision", "fp32", "int8"]
    gates = ["--fp32_tolerance", "1e-12", "--int8_agreement", "0", "--num_verify_clips", "8"]
    with pytest.raises(InputError, match=r"nano\.onnx: its logits differ from torch's by .*; deleted"):
        convert_model.main([*flags, *gates])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano_export.json", "nano_int8.onnx"]
    report = json.loads((tmp_path / "nano_export.json").read_text())
    assert ["differ" in (file["failure"] or "") for file in report["files"]] == [True, False]
    assert "nano.onnx" not in capsys.readouterr().out.partition("wrote")[2]


def test_files_with_other_weights_are_reported(trained, traced, tmp_path, capsys):
    flags = ["--output_dir", str(tmp_path), "--num_verify_clips", "3"]
    checkpoint = load_checkpoint(trained)
    checkpoint.weights["head.bias"] = checkpoint.weights["head.bias"] + 0.5
    (tmp_path / "nano_fp16.onnx").write_bytes(b"not even ONNX")
    save_checkpoint(tmp_path / "nano.pth", checkpoint)
    convert_model.main(["--checkpoint", str(trained), "--precision", "int8", "--int8_agreement", "0", *flags])
    assert "nano_fp16.onnx holds different weights" in capsys.readouterr().out
    (tmp_path / "nano_fp16.onnx").unlink()
    convert_model.main(["--checkpoint", str(trained), *flags])
    assert "other weights" not in capsys.readouterr().out
    convert_model.main(["--checkpoint", str(tmp_path / "nano.pth"), "--fp32_tolerance", "9", *flags])
    assert "nano_int8.onnx holds different weights; export it again, or delete it" in capsys.readouterr().out


def test_few_clips_and_few_classes_are_reported(trained, traced, tmp_path, capsys):
    checkpoint = load_checkpoint(trained)
    checkpoint.weights["head.bias"][0] += 100
    save_checkpoint(tmp_path / "one.pth", checkpoint)
    folder = tmp_path / "videos" / "jump"
    folder.mkdir(parents=True)
    write_video(folder / "short.avi", (np.full((48, 64, 3), level, np.uint8) for level in range(3)), fps=25)
    flags = ["--verify_dir", str(tmp_path / "videos"), "--num_verify_clips", "5", "--fp32_tolerance", "1000"]
    convert_model.main(["--checkpoint", str(tmp_path / "one.pth"), *flags])
    printed = capsys.readouterr().out
    assert "found only 1 of 5 different clips; longer or more videos give more" in printed
    assert "torch predicts the same class for all clips" in printed


def test_int8_scores_of_a_clip_do_not_depend_on_its_batch(files):
    """All activations of a batch share one scale, so the predictor scores clips one by one."""
    predictor = load_predictor(files["int8"])
    clips = np.random.default_rng(0).integers(0, 256, (4, *predictor.clip.shape), np.uint8)
    clips[1:] //= 16
    alone = np.concatenate([predictor.score_clips(clip[None]) for clip in clips])
    np.testing.assert_array_equal(predictor.score_clips(clips), alone)
    together = load_predictor(files["int8"], split_batches=False).score_clips(clips)
    assert np.abs(together - alone).max() > 1e-4  # the batch matters if it is not split


def test_low_agreement_fails(trained, traced, tmp_path, monkeypatch):
    monkeypatch.setattr(precisions, "to_int8", lambda proto: _negated(proto))
    with pytest.raises(InputError, match=r"agrees with torch on .* less than 99\.00%"):
        convert_model.main(
            ["--checkpoint", str(trained), "--output_dir", str(tmp_path), "--precision", "int8"]
            + ["--num_verify_clips", "12"]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["nano_export.json"]


def _negated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with negated logits, so that its best class is the original's worst."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    [last] = [node for node in proto.graph.node if "logits" in node.output]
    last.output[0] = "positive"
    proto.graph.node.append(onnx.helper.make_node("Neg", ["positive"], ["logits"]))
    return proto


def test_a_checkpoint_with_nan_is_not_exported(trained, tmp_path):
    checkpoint = load_checkpoint(trained)
    checkpoint.weights["head.bias"] = torch.full_like(checkpoint.weights["head.bias"], float("nan"))
    save_checkpoint(tmp_path / "nan.pth", checkpoint)
    with pytest.raises(InputError, match="logits of the checkpoint are not finite"):
        convert_model.main(["--checkpoint", str(tmp_path / "nan.pth"), "--num_verify_clips", "3"])
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pth"]


def test_overflow_fails_in_every_precision(trained, traced, tmp_path, monkeypatch):
    def overflowing(proto):
        proto = onnx.ModelProto.FromString(proto.SerializeToString())
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("head.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(bias.dims, np.inf, np.float32), bias.name))
        return proto

    monkeypatch.setattr(precisions, "to_fp16", overflowing)
    flags = ["--num_verify_clips", "3", "--fp16_agreement", "0", "--output_dir", str(tmp_path)]
    with pytest.raises(InputError, match="its logits are not finite"):
        convert_model.main(["--checkpoint", str(trained), "--precision", "fp16", *flags])
    assert [path.name for path in tmp_path.iterdir()] == ["nano_export.json"]
    [file] = json.loads((tmp_path / "nano_export.json").read_text())["files"]
    assert file["agreement"]["max_logit_difference"] is None


def test_no_space_left(trained, traced, tmp_path, monkeypatch):
    def save(proto, path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", save)
    with pytest.raises(InputError, match=r"nano\.onnx: cannot be written \(No space left on device\)"):
        convert_model.main(["--checkpoint", str(trained), "--output_dir", str(tmp_path), "--num_verify_clips", "3"])
    assert list(tmp_path.iterdir()) == []


def test_class_names_must_match_the_last_layer(trained, tmp_path):
    checkpoint = load_checkpoint(trained)
    checkpoint.class_names = checkpoint.class_names[:-1]
    save_checkpoint(tmp_path / "short.pth", checkpoint)
    with pytest.raises(InputError, match="weights do not fit swin3d_nano"):
        convert_model.main(["--checkpoint", str(tmp_path / "short.pth"), "--num_verify_clips", "3"])


def test_large_clips_are_tried_in_small_batches_and_scored_one_by_one(trained, exported, monkeypatch):
    """A batch of eight clips of 32x224x224 needs more memory than many machines have."""
    from video_module.inference import predictor, verification

    assert verification.fitting_batch_sizes((32, 224, 224, 3)) == (1, 2, 3)
    assert verification.fitting_batch_sizes(load_predictor(exported).clip.shape) == (1, 2, 3, 8)
    monkeypatch.setattr(predictor, "_CPU_BATCH_VALUES", 1)
    seen = []
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda self, *args: seen.append(len(args[1]["clips"])) or run(self, *args)
    )
    split = load_predictor(exported, device="cpu")
    clips = extreme_clips(split.clip)
    np.testing.assert_allclose(
        split.score_clips(clips), load_predictor(exported, split_batches=False).score_clips(clips), rtol=0, atol=1e-5
    )
    assert seen == [1, 1, 1, 3]


@pytest.mark.slow
def test_exports_published_weights_with_their_classes(tmp_path, monkeypatch):
    """Like `--model_type swin3d_t --weights KINETICS400_V1`, but with a small model."""
    import torch

    from video_module.models import recognizer
    from video_module.models.registry import MODELS

    names = [f"class {number}" for number in range(7)]
    donor = recognizer.build_model("swin3d_nano", num_classes=7, seed=4)
    spec = MODELS["swin3d_nano"]
    monkeypatch.setitem(MODELS, "swin3d_nano", type(spec)(**{**vars(spec), "weights": ("KINETICS400_V1",)}))
    monkeypatch.setattr(recognizer, "_published_weights", lambda *_, **__: donor.backbone.state_dict())
    monkeypatch.setattr("video_module.engine.checkpoint.published_class_names", lambda *_: names)
    convert_model.main(["--model_type", "swin3d_nano", "--output_dir", str(tmp_path)])
    predictor = load_predictor(tmp_path / "swin3d_nano.onnx")
    assert predictor.class_names == names
    clips = np.zeros((1, *predictor.clip.shape), np.uint8)
    with torch.inference_mode():
        expected = donor.eval()(torch.from_numpy(clips)).numpy()
    np.testing.assert_allclose(predictor.score_clips(clips), expected, rtol=0, atol=1e-4)


def test_the_progress_bar_counts_torch_and_all_files(monkeypatch):
    from video_module.config import ClipConfig
    from video_module.inference import verification

    class Bar:
        n = 0

        def __init__(self, total: int, **_):
            self.total = total

        def update(self, count: int) -> None:
            self.n += count

        def set_description(self, text: str) -> None:
            pass

    def score_clips(clips: np.ndarray) -> np.ndarray:
        return np.zeros((len(clips), 3))

    monkeypatch.setattr(verification, "tqdm", Bar)
    clip = ClipConfig(num_frames=2, resize=4, crop=4)
    clips = verification.VerificationClips(np.zeros((5, *clip.shape), np.uint8), None, "")
    reference = verification.Reference(score_clips, clips, clip, precisions=["fp32", "int8"])
    assert reference.bar.n == 8
    for precision in ("fp32", "int8"):
        assert reference.compare(score_clips, precision=precision).max_logit_difference == 0
    assert reference.bar.n == reference.bar.total
