import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import convert_model
import test_model
import train_model
from video_module.data.records import VideoRecord
from video_module.engine import probe
from video_module.engine.checkpoint import build_from_checkpoint, load_checkpoint
from video_module.engine.probe import CurvePoint, Estimate, Examples, fit_heads, fit_probe
from video_module.errors import InputError
from video_module.models.recognizer import build_model
from video_module.scores import softmax


def make_examples(
    *, num_classes=3, num_sources=10, per_source=2, spread=0.6, num_features=6, seed=0, num_clips=2, flips=True
) -> Examples:
    """Create videos of each class in each source, with features of very different scales, one of them constant."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, num_features))
    scales = 10.0 ** rng.uniform(-3, 3, num_features)
    videos, labels, plain, mirrored = [], [], [], []
    for source in range(num_sources):
        for label in range(num_classes):
            for number in range(per_source):
                name = f"c{label}/{source}_{number}.avi"
                videos.append(VideoRecord(path=name, label=f"c{label}", source=str(source), num_frames=9, fps=25))
                labels.append(label)
                rows = centres[label] + spread * rng.normal(size=(2 * num_clips, num_features))
                rows = np.column_stack([rows * scales + 5, np.full(len(rows), 3.0)]).astype(np.float32)
                plain.append(rows[:num_clips])
                mirrored.append(rows[num_clips:] if flips else rows[:0])
    names = [f"c{label}" for label in range(num_classes)]
    return Examples(videos=videos, labels=np.array(labels), plain=plain, mirrored=mirrored, class_names=names)


def subset(examples: Examples, members) -> Examples:
    return Examples(
        videos=[examples.videos[i] for i in members],
        labels=examples.labels[members],
        plain=[examples.plain[i] for i in members],
        mirrored=[examples.mirrored[i] for i in members],
        class_names=examples.class_names,
    )


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_head_is_the_regression_of_standardised_features(num_classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    examples = make_examples(num_classes=num_classes, flips=False)
    every = range(len(examples.videos))
    [head] = fit_heads(examples, every, [0.1], class_weights=None)
    rows = np.concatenate(examples.plain)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1 / 2, max_iter=1000))
    reference.fit(rows, np.repeat(examples.labels, 2))
    np.testing.assert_allclose(softmax(head.logits(rows)), reference.predict_proba(rows), atol=2e-3)
    assert (softmax(head.logits(rows)).argmax(axis=1) == np.repeat(examples.labels, 2)).mean() > 0.8


def test_a_video_counts_once_however_many_clips_it_has():
    examples = make_examples()
    repeated = subset(examples, range(len(examples.videos)))
    repeated.plain[:] = [np.repeat(rows, 3 if index % 3 else 1, axis=0) for index, rows in enumerate(examples.plain)]
    repeated.mirrored[:] = [
        np.repeat(rows, 3 if index % 3 else 1, axis=0) for index, rows in enumerate(examples.mirrored)
    ]
    every, rows = range(len(examples.videos)), np.concatenate(examples.plain)
    scores = [softmax(fit_heads(e, every, [0.01], class_weights=None)[0].logits(rows)) for e in (examples, repeated)]
    np.testing.assert_allclose(*scores, atol=0.02)  # not equal, because the standardisation counts clips


def test_class_weights_raise_a_rare_class():
    examples = make_examples(spread=2.0)
    members = [i for i, label in enumerate(examples.labels) if label or i % 5 == 0]
    plain, weighted = (
        fit_heads(examples, members, [0.01], class_weights=weights)[0] for weights in (None, [5.0, 1.0, 1.0])
    )
    rows = np.concatenate(examples.plain)
    assert softmax(weighted.logits(rows))[:, 0].mean() > 1.3 * softmax(plain.logits(rows))[:, 0].mean()


def test_held_out_scores_are_of_heads_that_saw_nothing_of_the_source():
    """The features identify the source and labels are random, so only a head that saw the source can be right."""
    rng = np.random.default_rng(0)
    examples = make_examples(num_classes=2, num_sources=40, per_source=1)
    examples = subset(examples, [2 * source + int(rng.integers(2)) for source in range(40)])
    pairs = subset(examples, np.repeat(np.arange(40), 2))  # two videos of each source, of one class
    pairs.plain[:] = [np.eye(40, dtype=np.float32)[[index // 2]] for index in range(80)]
    pairs.mirrored[:] = [rows[:0] for rows in pairs.plain]
    [head] = fit_heads(pairs, range(80), [10.0], class_weights=None)
    assert (head.logits(np.concatenate(pairs.plain)).argmax(axis=1) == pairs.labels).all()
    estimate = fit_probe(pairs).estimate
    hits = np.array([rows.argmax() for rows in estimate.logits]) == pairs.labels
    assert hits.mean() < 0.75


def test_fit_probe():
    examples = make_examples()
    fitted = fit_probe(examples)
    estimate = fitted.estimate
    assert estimate.num_folds == 5
    assert [rows.shape for rows in estimate.logits] == [(2, 3)] * 60  # without mirror images
    assert [point.num_videos for point in estimate.curve] == [2, 5, 10, 16]
    assert 0.8 < estimate.curve[-1].accuracy <= 1
    assert estimate.curve[0].accuracy <= estimate.curve[-1].accuracy + 0.02
    assert estimate.curve_table().splitlines()[0].split() == ["videos", "per", "class", "2", "5", "10", "all", "(16)"]
    again = fit_probe(examples)
    assert np.array_equal(again.head.weight, fitted.head.weight)
    # The final head is fitted to all videos.
    assert not np.allclose(fit_probe(subset(examples, range(45))).head.weight, fitted.head.weight)


def test_strength_goes_with_the_data():
    easy, hard = make_examples(spread=0.1), make_examples(spread=30.0)
    assert fit_probe(hard).strength < fit_probe(easy).strength


def test_few_sources_make_few_folds():
    assert fit_probe(make_examples(num_sources=3)).estimate.num_folds == 3
    assert fit_probe(make_examples(num_sources=2)).estimate.num_folds == 2


def test_a_class_of_one_source_leaves_no_estimate():
    examples = make_examples()
    members = [i for i, video in enumerate(examples.videos) if video.label != "c1" or video.source == "3"]
    fitted = fit_probe(subset(examples, members))
    assert fitted.estimate is None
    assert fitted.note.startswith("no accuracy estimate: all videos of class 'c1' come from one recording")
    assert fitted.head.weight.shape == (3, 7)


def test_folds_keep_sources_together_and_have_every_class():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        examples = make_examples(num_classes=4, num_sources=6)
        members = np.sort(rng.choice(48, 20, replace=False))
        if len(set(examples.labels[members].tolist())) < 4:
            continue
        examples = subset(examples, members)
        folds, note = probe._folds(examples, seed=seed)
        if folds is None:
            assert note
            continue
        by_source = {}
        for video, fold in zip(examples.videos, folds, strict=True):
            assert by_source.setdefault(video.source, fold) == fold
        for fold in set(folds):
            assert set(examples.labels[folds != fold]) == {0, 1, 2, 3}


def test_unknown_actions_are_judged_by_heads_that_never_saw_their_class():
    examples = make_examples(num_classes=4)
    estimate = fit_probe(examples).estimate
    assert [scores.shape for scores in estimate.unknown] == [(len(rows), 3) for rows in examples.plain]
    assert len(estimate.unknown) == len(examples.videos)
    others = np.flatnonzero(examples.labels != 2)
    left_out = subset(examples, others)
    left_out = replace(left_out, labels=left_out.labels - (left_out.labels > 2), class_names=["c0", "c1", "c3"])
    [head] = fit_heads(left_out, range(len(others)), [fit_probe(examples).strength], class_weights=None)
    index, place = int(np.flatnonzero(examples.labels == 2)[0]), int((examples.labels < 2).sum())
    np.testing.assert_allclose(estimate.unknown[place], softmax(head.logits(examples.plain[index])), atol=1e-6)
    many = make_examples(num_classes=14, num_sources=4, per_source=1)
    assert len(fit_probe(many).estimate.unknown) == 10 * 4  # at most ten classes are left out
    assert fit_probe(make_examples(num_classes=2)).estimate.unknown is None


def advice_of(*curve: tuple[int, list[float]]) -> str:
    points = [CurvePoint(num_videos=size, hits=np.array(hits, float)) for size, hits in curve]
    num_videos = len(curve[0][1])
    return Estimate(
        num_folds=5, logits=[], curve=points, sources=[str(number) for number in range(num_videos)]
    ).advice()


def test_advice():
    half, most = [0, 1] * 50, [0, 1, 1, 1] * 25
    told = advice_of((10, half), (20, most))
    assert told.startswith("10 to 20 videos per class: +25.0% accuracy (± 8.7%)") and told.endswith("would help")
    assert "hardly help" in advice_of((10, most), (20, most))
    assert "hardly help" in advice_of((10, most), (20, half))
    ups, downs = [1, 0] * 10, [0, 1] * 10  # 20 videos without a gain, but with an error of 45 %
    told = advice_of((5, ups), (10, downs))
    assert told.endswith("+0.0% accuracy (± 44.7%); more videos may help or not: there are too few to tell")
    # The gain is one video of a hundred, and the point at 10 is too close to 12 to be compared with it.
    assert "5 to 12" in advice_of((5, half), (10, most), (12, [1, *half[1:]]))
    assert "may help (the gain is within its error)" in advice_of((5, half), (12, [1, *half[1:]]))
    assert "too few videos to tell" in advice_of((16, half))
    assert "10 to 20" in advice_of((5, half), (10, half), (19, most), (20, most))


# ---- the script


@pytest.fixture(scope="module")
def probed(trained, drawn_data, tmp_path_factory):
    """Path and printed text of a probe on a network trained for two epochs."""
    import contextlib
    import io

    path = tmp_path_factory.mktemp("probe") / "p.pth"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_model.main(command(trained, drawn_data, path))
    return path, printed.getvalue()


def command(weights, data_dir, path, *flags):
    return [
        *("--probe", "--model_type", "swin3d_nano", "--weights", str(weights), "--data_dir", str(data_dir)),
        *("--save_path", str(path), "--device", "cpu", "--num_workers", "0", *flags),
    ]


def test_what_a_probe_prints(probed):
    path, printed = probed
    assert f"features: found 0 of 30 videos in {path.with_name('p_features.npz')}" in printed
    accuracy = r"cross-validated accuracy 0\.\d{3}, 95 % interval 0\.\d{3} to 0\.\d{3}"
    assert re.search(accuracy + r" \(30 videos of 5 recordings in 5 folds\)", printed)
    assert re.search(r"videos per class +2 +all \(4\)", printed)
    assert "per class: " in printed
    checkpoint = load_checkpoint(path)
    answer = f"temperature {checkpoint.temperature:.2f}; answers below {checkpoint.min_score:.2f} are uncertain"
    assert f"scores: {answer} (" in printed
    assert printed.endswith(f"wrote\n  {path}\n  {path.with_name('p_features.npz')}\n")


def test_a_probe_is_a_checkpoint_of_the_same_network(probed, trained):
    checkpoint, before = load_checkpoint(probed[0]), load_checkpoint(trained)
    assert checkpoint.train_config["probe"] is True
    assert checkpoint.train_config["C"] in probe._STRENGTHS
    assert checkpoint.class_names == before.class_names
    assert checkpoint.train_sources == before.train_sources and checkpoint.train_clips == before.train_clips
    for name, value in before.weights.items():
        if name.startswith("head."):
            assert checkpoint.weights[name].shape == value.shape and not torch.equal(checkpoint.weights[name], value)
        else:
            assert torch.equal(checkpoint.weights[name], value)


@pytest.mark.slow
def test_its_logits_are_those_of_the_regression(probed, trained, drawn_data):
    """The fit uses features from onnxruntime and the checkpoint runs in torch, so the two must agree."""
    from video_module.data.dataset import EvaluationViews, Views
    from video_module.data.records import load_videos

    model = build_from_checkpoint(load_checkpoint(probed[0]))
    [video, *_] = load_videos(drawn_data / "train", num_workers=1)
    dataset = EvaluationViews(drawn_data / "train", [video], model.clip, Views(num_clips=1, num_crops=1))
    clips = torch.from_numpy(np.stack(list(dataset.cut(*dataset[0]))))
    with torch.inference_mode():
        logits = model(clips)
        weight, bias = model.head.weight.detach(), model.head.bias.detach()
        base = build_model("swin3d_nano", num_classes=6, weights=str(trained)).eval()
        from video_module.engine.features import expose_features
        from video_module.inference.export import onnx_scorer

        expose_features(base)
        torch_rows = base(clips)
        rows = onnx_scorer(base)(clips.numpy())
    np.testing.assert_allclose(rows, torch_rows, atol=1e-4)
    np.testing.assert_allclose(logits, rows @ weight.numpy().T + bias.numpy(), atol=1e-3)


@pytest.mark.slow
def test_it_learns_and_every_stage_takes_it(probed, drawn_data, tmp_path):
    path, _ = probed
    test_model.main(
        ["--test_dir", str(drawn_data / "train"), "--checkpoint", str(path), "--device", "cpu"]
        + ["--allow_leak", "--output_dir", str(tmp_path)]
    )
    results = json.loads((tmp_path / "p_results.json").read_text())
    assert results["video_top1"] > 0.5  # six classes, tested on training videos
    convert_model.main(["--checkpoint", str(path), "--num_verify_clips", "4", "--output_dir", str(tmp_path)])
    assert (tmp_path / "p.onnx").is_file()


@pytest.fixture
def again(probed, tmp_path):
    """A copy of a probe and its features, to run it again."""
    for name in ("p.pth", "p_features.npz"):
        shutil.copy(probed[0].with_name(name), tmp_path / name)
    return tmp_path / "p.pth"


def test_a_second_run_computes_nothing_and_gives_the_same(probed, again, trained, drawn_data, capsys):
    train_model.main(command(trained, drawn_data, again))
    printed = capsys.readouterr().out
    assert "features: found 30 of 30 videos in" in printed and "ONNX" not in printed
    assert f"note: {again} of an earlier run will be replaced" in printed
    first, second = load_checkpoint(probed[0]), load_checkpoint(again)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


def test_features_in_another_precision_are_others(again, trained, drawn_data, capsys):
    """In bf16, torch computes the features, as it does on CUDA."""
    train_model.main(command(trained, drawn_data, again, "--precision", "bf16"))
    printed = capsys.readouterr().out
    assert "features: found 0 of 30 videos in" in printed and "ONNX" not in printed
    head = {name: value for name, value in load_checkpoint(again).weights.items() if name.startswith("head.")}
    assert all(value.dtype == torch.float32 for value in head.values())
    train_model.main(command(trained, drawn_data, again))
    assert "features: found 30 of 30 videos in" in capsys.readouterr().out


@pytest.mark.slow
def test_a_new_class_computes_its_videos_alone(again, trained, drawn_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(drawn_data / "train", data / "train")
    (data / "train" / "new").mkdir()
    for number, video in enumerate(sorted((drawn_data / "test" / "wave").iterdir())):
        shutil.copy(video, data / "train" / "new" / f"{number}.avi")
    train_model.main(command(trained, data, again, "--no_flip", "new"))
    printed = capsys.readouterr().out
    assert "features: found 24 of 25 videos" in printed
    assert "no accuracy estimate: all videos of class 'new' come from one recording" in printed
    assert load_checkpoint(again).class_names[1] == "new"


def test_training_goes_on_from_a_probe(probed, drawn_data, tmp_path, capsys):
    path = probed[0]
    train_model.main(
        ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--weights", str(path), "--num_epochs", "1"]
        + ["--save_path", str(tmp_path / "on.pth"), "--num_workers", "0", "--device", "cpu", "--lr", "1e-9"]
    )
    assert "new last layer" not in capsys.readouterr().out
    trained_on, before = load_checkpoint(tmp_path / "on.pth"), load_checkpoint(path)
    torch.testing.assert_close(trained_on.weights["head.weight"], before.weights["head.weight"], rtol=1e-3, atol=1e-5)


def refused(*flags, match):
    with pytest.raises(InputError, match=match):
        train_model.main(["--probe", *flags])


def test_refusals(drawn_data, trained, tmp_path, monkeypatch):
    nano = ("--model_type", "swin3d_nano", "--data_dir", str(drawn_data))
    refused(
        *nano,
        match=r"^--probe requires .*: pass --weights X\.pth for swin3d_nano, choose .*swin3d_t.*, or leave out",
    )
    refused("--weights", "none", match="^--probe requires a trained network: pass --weights X.pth for swin3d_b")
    for flag, *value in (("--lr", "3"), ("--num_epochs", "3"), ("--resume",)):
        refused(*nano, "--weights", str(trained), flag, *value, match=f"^{flag} cannot be combined with --probe")
    refused(*nano, "--weights", str(trained), "--no_flip", "fly", match="--no_flip fly: not a class")
    named = tmp_path / "data"
    (named / "train").mkdir(parents=True)
    for name in ("sit", "wave"):
        (named / "train" / name).symlink_to(drawn_data / "train" / name)
    (named / "obj.names").write_text("fly\nsit\nwave\n")
    refused(
        *nano[:2],
        "--data_dir",
        str(named),
        "--weights",
        str(trained),
        "--save_path",
        str(tmp_path / "x.pth"),
        match="class 'fly' has no training video; add some, or remove the class from obj.names",
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    refused(*nano, "--weights", str(trained), match="^--probe runs in one process; start it with python, not torchrun$")
