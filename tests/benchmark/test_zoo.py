import json
import math
from dataclasses import replace
from itertools import pairwise, repeat
from types import SimpleNamespace

import pytest
import torch

import test_model
from video_module.benchmark import zoo
from video_module.benchmark.__main__ import main, parse_args
from video_module.config import PRECISIONS
from video_module.data import leaks
from video_module.data.records import load_videos
from video_module.engine.checkpoint import load_checkpoint
from video_module.errors import InputError
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import MODELS, get_spec


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(zoo, "_SPEED_S", 0.2)


@pytest.mark.usefixtures("quick")
def test_from_nothing_to_the_table_and_the_picture(drawn_data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["zoo", "--models", "swin3d_nano", "--data_dir", str(drawn_data), "--output_dir", str(out)]
    main([*command, "--train_s", "2", "--save_json", str(tmp_path / "rows.json")])
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    parts = json.loads((out / "swin3d_nano.json").read_text())
    assert list(parts) == ["train", "test", "speed", "latency"]

    cost = measure_cost("swin3d_nano")
    assert (row["M params"], row["GMACs"]) == (cost.num_parameters / 1e6, cost.gmacs)
    assert row["train clips/s"] > 0
    for precision in PRECISIONS:
        assert row[f"{precision} ms"] > 0
    assert 0.98 * 4 * row["M params"] < row["fp32 MB"] < 4 * row["M params"] + 1
    assert row["fp32 MB"] > row["fp16 MB"] > row["int8 MB"]

    trained = parts["train"]["figures"]
    step_s = trained["duration_s"] / trained["num_steps"]
    assert abs(trained["duration_s"] - 2) < 5 * step_s  # a step takes longer at times
    assert row["clips seen"] == trained["num_clips"] >= trained["num_steps"]

    # an ordinary checkpoint, which knows what it was trained on, and whose accuracy is test_model.py's
    checkpoint = load_checkpoint(out / "swin3d_nano" / "swin3d_nano.pth")
    train_videos = load_videos(drawn_data / "train", num_workers=1)
    assert checkpoint.train_sources == sorted({leaks.hash_source(video.source) for video in train_videos})
    assert checkpoint.class_names == (drawn_data / "obj.names").read_text().split()
    untrained = build_model("swin3d_nano", num_classes=len(checkpoint.class_names), seed=777).backbone.state_dict()
    assert not torch.equal(untrained["head.weight"], checkpoint.weights["head.weight"])
    test_model.main(
        ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(out / "swin3d_nano" / "swin3d_nano.pth")]
        + ["--num_clips", "1", "--num_crops", "1", "--output_dir", str(tmp_path), "--num_workers", "0"]
    )
    results = json.loads((tmp_path / "swin3d_nano_results.json").read_text())
    assert row["top-1"] == results["video_top1"]
    assert (out / "zoo.png").stat().st_size > 10_000

    # what is there is not measured again, unless it is to be of another kind
    for part in zoo.MEASURES:
        monkeypatch.setitem(zoo.MEASURES, part, lambda *_: {"num_clips": 1})
    capsys.readouterr()
    main([*command, "--train_s", "2", "--save_json", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == [row]
    printed = capsys.readouterr().out
    assert "swin3d_nano: train is in" in printed
    assert "zoo.png" in printed.partition("wrote")[2]
    main([*command, "--train_s", "3", "--save_json", str(tmp_path / "other.json")])
    [other] = json.loads((tmp_path / "other.json").read_text())["rows"]
    assert other == {**row, "clips seen": 1}


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_is_tested_and_not_trained(trained, drawn_data, tmp_path, monkeypatch):
    monkeypatch.delitem(zoo.MEASURES, "train")
    main(
        ["zoo", "--models", "swin3d_nano", "--checkpoints", str(trained), "--data_dir", str(drawn_data)]
        + ["--output_dir", str(tmp_path), "--parts", "train", "test", "--save_json", str(tmp_path / "rows.json")]
    )
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["clips seen"] is None
    assert row["top-1"] == json.loads((tmp_path / "swin3d_nano" / "nano_results.json").read_text())["video_top1"]
    assert row["fp32 ms"] is None
    # what was measured of it does not stand for the model as another checkpoint has it, or untrained
    [entrant] = zoo.find_entrants(["swin3d_nano"], [])
    [other] = zoo.make_rows([entrant], tmp_path)
    assert (other["top-1"], other["clips seen"]) == (None, None)


def test_a_checkpoint_brings_its_own_clips(trained, tmp_path):
    from video_module.engine.checkpoint import save_checkpoint

    checkpoint = load_checkpoint(trained)
    wide = replace(checkpoint.clip, crop=128, resize=144)
    save_checkpoint(tmp_path / "wide.pth", replace(checkpoint, clip=wide))
    [entrant] = zoo.find_entrants(["swin3d_nano"], [tmp_path / "wide.pth"])
    assert entrant.clip == wide
    assert zoo.make_row(entrant, {})["GMACs"] > 3 * measure_cost("swin3d_nano").gmacs
    with pytest.raises(InputError, match=r"wide\.pth: .*nano\.pth is of swin3d_nano too"):
        zoo.find_entrants([], [trained, tmp_path / "wide.pth"])


def test_without_videos_and_without_parts_there_are_costs(tmp_path, capsys):
    main(["zoo", "--models", "c3d", "r3d_18", "--parts", "train", "test", "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "no --data_dir: nothing is trained or tested" in printed
    rows = printed.splitlines()
    assert [line.split()[0] for line in rows if line.startswith(("  c3d", "  r3d_18"))] == ["c3d", "r3d_18"]
    args = parse_args(["zoo", "--parts"])
    assert args.parts == []
    assert args.models == list(MODELS)


def test_an_untrained_model_cannot_be_tested(drawn_data, tmp_path):
    with pytest.raises(InputError, match="c3d is not trained yet; add train to --parts"):
        main(
            ["zoo", "--models", "c3d", "--parts", "test", "--data_dir", str(drawn_data), "--output_dir", str(tmp_path)]
        )


def test_figures_of_different_conditions_do_not_stand_in_one_table(tmp_path):
    def keep(name: str, **conditions) -> None:
        own = {"clip": get_spec(name).clip.to_dict()}
        part = {"conditions": {**conditions, "own": own}, "figures": {"clips_per_s": 1.0}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"speed": part}))

    entrants = zoo.find_entrants(["c3d", "r3d_18"], [])
    keep("c3d", num_threads=2)
    keep("r3d_18", num_threads=2)
    assert [row["train clips/s"] for row in zoo.make_rows(entrants, tmp_path)] == [1, 1]
    keep("r3d_18", num_threads=1)
    with pytest.raises(InputError, match="speed of c3d and r3d_18 cannot stand in one table: num_threads was 2 and 1"):
        zoo.make_rows(entrants, tmp_path)
    (tmp_path / "c3d.json").write_text('{"speed": 3}')
    with pytest.raises(InputError, match=r"c3d\.json: not a file of this benchmark"):
        zoo.make_rows(entrants, tmp_path)


@pytest.mark.parametrize(("duration_s", "num_steps"), [(0, 1), (0.2, 1), (10, 10), (10.4, 10), (10.6, 11)])
def test_steps_end_as_near_to_the_time_as_they_can(duration_s, num_steps, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(zoo, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(loads) -> None:
        now[0] += 1

    loads = [(torch.zeros(2, 1), torch.zeros(2), []), (torch.zeros(1, 1), torch.zeros(1), [])]
    assert zoo.run_steps(step, repeat(loads), duration_s=duration_s) == (3 * num_steps, num_steps, num_steps)


def test_the_schedule_ends_with_the_time():
    """After the steps that it was made for, a step changes nothing."""
    spec = get_spec("swin3d_nano")
    model = build_model("swin3d_nano", num_classes=3)
    step = zoo.stepper(model, spec.train_config(weights="none", given={}), device=torch.device("cpu"), num_steps=3)
    clips = torch.randint(0, 256, (2, *model.clip.shape), dtype=torch.uint8)
    weights = [model.head.weight.detach().clone()]
    for _ in range(5):
        step([(clips, torch.tensor([0, 1]), [])])
        weights.append(model.head.weight.detach().clone())
    same = [torch.equal(before, after) for before, after in pairwise(weights)]
    assert same == [False, False, False, True, True]


def test_a_loss_that_is_no_number_stops():
    spec = get_spec("swin3d_nano")
    model = build_model("swin3d_nano", num_classes=3)
    torch.nn.init.constant_(model.head.bias, math.inf)
    step = zoo.stepper(model, spec.train_config(weights="none", given={}), device=torch.device("cpu"), num_steps=3)
    with pytest.raises(InputError, match="swin3d_nano: the loss is"):
        step([(torch.zeros((1, *model.clip.shape), dtype=torch.uint8), torch.tensor([0]), [])])


@pytest.mark.parametrize("name", MODELS)
def test_batches_fit_the_memory(name):
    [entrant] = zoo.find_entrants([name], [])
    size = zoo.batch_size_for(entrant)
    assert size == zoo.config_for(entrant).effective_batch
    assert 1 <= size <= get_spec(name).train_config(weights="none", given={}).effective_batch
    assert size == 1 or size * math.prod(entrant.clip.shape) <= 2**23
