"""Draw a small data set and run every stage on it, with the scripts and flags that a user would use.

python -m video_module.demo --output_dir demo_output --seed 0
"""

import argparse
import importlib
import shlex
import time
from pathlib import Path

from video_module import cli
from video_module.errors import InputError
from video_module.files import replacing
from video_module.machine import default_num_workers

MODEL = "swin3d_nano"
NUM_SOURCES, CLIPS_PER_SOURCE = 30, 3
# The test split has 108 of the 540 clips, from 6 sources, so that one wrong clip changes top-1 by less than a percent.
TEST_FRACTION, VAL_FRACTION = 0.2, 0.1
RECORDING_ACTIONS = ("wave", "sit", "stand", "push", "pull", "jump")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__.splitlines()[0])
    parser.prog = "python -m video_module.demo"
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="folder for all files")
    parser.add_argument("--seed", type=cli.natural, default=0, help="random seed for drawing, split and training")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    begin = time.perf_counter()
    # With forward slashes on Windows too, since shlex splits the commands and reads backslashes as escapes.
    out = shlex.quote(args.output_dir.as_posix())
    commands = (
        f"split_data.py --input_dir {out}/clips --output_dir {out}/data"
        f" --val_fraction {VAL_FRACTION} --test_fraction {TEST_FRACTION} --seed {args.seed}",
        f"calc_label_distribution.py --data_dir {out}/data --save_to {out}/label_distribution.json",
        f"train_model.py --data_dir {out}/data --model_type {MODEL} --save_path {out}/{MODEL}.pth --seed {args.seed}",
        f"test_model.py --test_dir {out}/data/test --checkpoint {out}/{MODEL}.pth",
        f"convert_model.py --checkpoint {out}/{MODEL}.pth",
        f"run_model.py --video_path {out}/recording.avi --model {out}/{MODEL}.onnx"
        f" --save_json {out}/{MODEL}_run.json --save_video {out}/{MODEL}_annotated.mp4",
    )
    durations = {"draw": draw(args.output_dir, args.seed)}
    for command in commands:
        script = command.partition(".py ")[0]
        durations[script] = run_script(script, command)
    summarise(args.output_dir, durations, time.perf_counter() - begin)


def draw(out: Path, seed: int) -> float:
    """Draw the clips, and one recording in a scene of its own. Returns the seconds it took."""
    begin = time.perf_counter()
    from video_module.data.drawing import ACTIONS, NAME_PREFIX, draw_dataset, draw_recording

    visible = [path for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if visible and not (out / "clips").is_dir():
        raise InputError(f"--output_dir {out}: not empty, and not written by the demo; choose another folder")
    if others := [
        path for path in (out / "clips").rglob("*") if path.is_file() and not path.name.startswith(NAME_PREFIX)
    ]:
        raise InputError(f"{others[0]}: not one of the demo's clips; choose another --output_dir")
    with replacing(out / "clips") as folder:
        clips = draw_dataset(
            folder,
            num_sources=NUM_SOURCES,
            clips_per_source=CLIPS_PER_SOURCE,
            seed=seed,
            num_workers=default_num_workers(),
        )
    draw_recording(out / "recording.avi", RECORDING_ACTIONS, seed=seed, source=NUM_SOURCES)
    duration = time.perf_counter() - begin
    print(
        f"drew {len(clips)} clips of {len(ACTIONS)} actions in {NUM_SOURCES} scenes, and a recording: {duration:.1f} s"
    )
    return duration


def run_script(script: str, command: str) -> float:
    """Print a shell command and run it by calling the script's main(). Returns the seconds it took."""
    print(f"\n$ python {command}", flush=True)
    begin = time.perf_counter()
    importlib.import_module(script).main(shlex.split(command)[1:])
    duration = time.perf_counter() - begin
    print(f"[{script}: {duration:.1f} s]", flush=True)
    return duration


def summarise(out: Path, durations: dict[str, float], total_s: float) -> None:
    """Print a table of results, files and times."""
    from video_module.data.drawing import REVERSED_PAIRS
    from video_module.report.results import read_predictions, read_results

    path = out / f"{MODEL}_results.json"
    results = read_results(path)
    predictions, per_class = read_predictions(path, results), results["per_class_accuracy"]
    rows = [("video top-1", f"{results['video_top1']:.3f}  ({results['num_videos']} test videos of unseen scenes)")]
    for first, second in REVERSED_PAIRS:
        hits = [row["prediction"] == row["label"] for row in predictions if row["label"] in (first, second)]
        detail = f"{first} {per_class[first]:.2f}, {second} {per_class[second]:.2f}"
        rows.append(
            (f"{first}/{second}", f"{sum(hits) / len(hits):.3f}  (one motion, forwards or backwards: {detail})")
        )
    rows += [
        ("results", path),
        ("confusion", out / f"{MODEL}_confusion.png"),
        ("training curves", out / f"{MODEL}_curves.png"),
        ("distribution", out / "label_distribution.png"),
        ("checkpoint", out / f"{MODEL}.pth"),
        ("ONNX file", out / f"{MODEL}.onnx"),
        ("annotated video", out / f"{MODEL}_annotated.mp4"),
        ("time", f"{total_s:.0f} s: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in durations.items())),
    ]
    print("\n" + "\n".join(f"  {name:16} {value}" for name, value in rows))
    print(f"\nnext: python run_gradio.py --model {shlex.quote((out / MODEL).as_posix())}.onnx")


if __name__ == "__main__":
    cli.run(main)
