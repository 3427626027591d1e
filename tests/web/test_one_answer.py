"""Test that the scripts, the page's API and the predictor give equal scores for a video."""

import csv
import json

import pytest
from gradio_client import Client, handle_file

import run_model
import test_model
from video_module.inference.predictor import load_predictor


def test_scripts_api_and_predictor_agree(server, exported, drawn_data, tmp_path):
    test_dir = drawn_data / "test"
    test_model.main(
        ["--test_dir", str(test_dir), "--checkpoint", str(exported), "--sampling", "windows", "--num_crops", "1"]
        + ["--output_dir", str(tmp_path)]
    )
    with open(next(tmp_path.glob("*_predictions.csv")), newline="", encoding="utf-8") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    predictor, client = load_predictor(exported), Client(server.address, verbose=False)
    assert len(rows) >= 6
    for name, row in rows.items():
        video, output = test_dir / name, tmp_path / "run.json"
        expected = predictor.predict_video(video).scores
        assert [float(row[label]) for label in predictor.class_names] == pytest.approx(expected, abs=1e-5)

        run_model.main(
            ["--video_path", str(video), "--model", str(exported), "--top_k", "6", "--save_json", str(output)]
        )
        page = client.predict(video=handle_file(video), top_k=6, api_name="/predict")
        for answer in (json.loads(output.read_text()), page):
            scores = {item["label"]: item["score"] for item in answer["top_k"]}
            assert [scores[label] for label in predictor.class_names] == pytest.approx(expected, abs=1e-5)
