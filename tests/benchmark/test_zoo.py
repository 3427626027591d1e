import json
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from video_module.benchmark import zoo
from video_module.benchmark.__main__ import main, parse_args
from video_module.benchmark.zoo_picture import draw_zoo
from video_module.config import PRECISIONS
from video_module.models.cost import measure_cost
from video_module.models.registry import MODELS, get_spec


@pytest.mark.slow
def test_table_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "_TRAINING_S", 0.2)
    out = tmp_path / "out"
    main(["zoo", "--models", "swin3d_nano", "--output_dir", str(out), "--save_json", str(tmp_path / "rows.json")])
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    cost = measure_cost("swin3d_nano")
    assert (row["M params"], row["GMACs"]) == (cost.num_parameters / 1e6, cost.gmacs)
    assert row["train clips/s"] > 0
    for precision in PRECISIONS:
        assert row[f"{precision} ms"] > 0
    assert 0.98 * 4 * row["M params"] < row["fp32 MB"] < 4 * row["M params"] + 1
    assert row["fp32 MB"] > row["fp16 MB"] > row["int8 MB"]
    assert min(Image.open(out / "zoo.png").size) > 500
    printed = capsys.readouterr().out
    assert "train clips/s" in printed
    assert "zoo.png" in printed.partition("wrote")[2]
    assert parse_args(["zoo"]).models == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_batches_fit_into_memory(name):
    spec, size = get_spec(name), zoo.batch_size_for(name)
    assert 1 <= size <= spec.train_config(weights="none", given={}).effective_batch
    assert size == 1 or size * math.prod(spec.clip.shape) <= 2**23


def zoo_rows() -> list[dict]:
    """Return rows with realistic values, so that models are as close to each other as in a real table."""
    figures = {
        "swin3d_t": (28.2, 88, 1100, 600),
        "swin3d_s": (49.8, 166, 2100, 1200),
        "swin3d_b": (88, 282, 3300, 1800),
        "swin3d_nano": (0.4, 0.02, 2, 1.5),
        "r2plus1d_18": (31.5, 40.5, 600, 590),
        "r3d_18": (33.4, 40.7, 400, 395),
        "mc3_18": (11.7, 43.3, 420, 410),
        "s3d": (8.3, 143.9, 1900, 1850),
        "mvit_v1_b": (36.6, 70.6, 760, 420),
        "mvit_v2_s": (34.5, 64.2, 700, 380),
        "c3d": (79.6, 38.5, 350, 340),
        "i3d": (12.7, 111, 1000, 980),
    }
    keys = ("M params", "GMACs", "fp32 ms", "int8 ms")
    return [{"model": name, **dict(zip(keys, values, strict=True))} for name, values in figures.items()]


def test_labels_of_models_do_not_overlap():
    rows = zoo_rows()
    figure = draw_zoo(rows)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    frame = axes.get_window_extent()
    names = {row["model"] for row in rows} - {"swin3d_nano"}
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text() in names]
    assert len(boxes) == len(names)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    for row in rows:
        for kind in ("fp32 ms", "int8 ms"):
            x, y = axes.transData.transform((row["GMACs"], row[kind] / 1e3))
            assert not any(box.contains(x, y) for box in boxes)
    assert "swin3d_nano: 0.02·10⁹, 2 ms; off this scale" in [text.get_text() for text in axes.texts]


def test_figure_of_a_single_model():
    rows = [zoo_rows()[3]]
    assert np.isfinite(draw_zoo(rows).axes[0].get_xlim()).all()
