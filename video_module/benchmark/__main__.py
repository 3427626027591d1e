"""Measure speed on this machine; everything that is compared is measured in the same run.

python -m video_module.benchmark loader --data_dir hmdb51
python -m video_module.benchmark loader --data_dir videos prepared
python -m video_module.benchmark predict --model X.pth X.onnx X_int8.onnx
python -m video_module.benchmark zoo
python -m video_module.benchmark train
python -m video_module.benchmark probe --weights demo_output/swin3d_nano.pth
python -m video_module.benchmark gpu
"""

import argparse
import sys
from pathlib import Path

from video_module import cli
from video_module.benchmark.gpu import PARTS
from video_module.config import AUGMENTATIONS, AUTO, auto_or_count
from video_module.machine import default_num_workers
from video_module.models.registry import MODELS
from video_module.tables import align


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__.splitlines()[0])
    parser.prog = "python -m video_module.benchmark"
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT", parser_class=type(parser))
    _add_loader(commands)
    _add_predict(commands)
    _add_video(commands)
    _add_zoo(commands)
    _add_train(commands)
    _add_recipe(commands)
    _add_probe(commands)
    _add_gpu(commands)
    return parser.parse_args(argv)


def _add_loader(commands: argparse._SubParsersAction) -> None:
    loader = _add(commands, "loader", "compare the loaders with a bare OpenCV read, and with a seek for every frame")
    loader.add_argument(
        "--data_dir",
        type=Path,
        nargs="+",
        help="folder of classes (default: drawn clips similar to HMDB51's); with several, only the training loader "
        "is compared",
    )
    loader.add_argument("--num_videos", type=cli.positive_int, default=48, help="number of videos per pass")
    loader.add_argument(
        "--num_repeats", type=cli.positive_int, default=5, help="number of paired passes; medians are shown"
    )
    loader.add_argument("--model_type", choices=list(MODELS), default="swin3d_b", help="model whose clips are read")
    loader.add_argument("--augment", choices=AUGMENTATIONS, default="light", help="augmentation in the training loader")
    loader.add_argument("--num_workers", type=cli.positive_int, default=1, help="number of processes per loader")


def _add_predict(commands: argparse._SubParsersAction) -> None:
    predict = _add(
        commands, "predict", "time torch eager, torch compiled and ONNX files, on one clip and on a long video"
    )
    what = predict.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, nargs="+", help="X.pth and X.onnx files of one model")
    what.add_argument("--model_type", choices=list(MODELS), help="create files with random weights instead")
    predict.add_argument("--video_path", type=Path, help="a long video (default: a drawn one)")
    predict.add_argument(
        "--duration_s", type=cli.positive_float, default=60.0, help="length of the drawn video, in seconds"
    )
    predict.add_argument("--batch_size", type=cli.positive_int, default=4, help="windows per forward pass")
    predict.add_argument(
        "--device", default="auto", help="device as for run_model.py (auto: every runtime of this machine)"
    )
    predict.add_argument("--num_threads", type=cli.positive_int, help="CPU cores for the network (default: all)")
    predict.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time torch.compile, which takes minutes to warm up",
    )


def _add_video(commands: argparse._SubParsersAction) -> None:
    video = _add(
        commands, "video", "compare recognising a whole video with the original project, a bare read and a bare encode"
    )
    video.add_argument("--model", type=Path, required=True, help="X.onnx or X.pth")
    video.add_argument("--video_path", type=Path, required=True, help="video to recognise")
    video.add_argument("--num_repeats", type=cli.positive_int, default=5, help="paired runs; medians are shown")
    video.add_argument(
        "--max_windows", type=cli.positive_int, default=200, help="number of windows to time for the original"
    )
    video.add_argument("--device", default="auto", help=cli.DEVICE_HELP)
    video.add_argument("--num_threads", type=cli.positive_int, help="CPU cores for the network (default: all)")


def _add_zoo(commands: argparse._SubParsersAction) -> None:
    zoo = _add(commands, "zoo", "compare all models: cost, size, speed of training and of serving, with a picture")
    zoo.add_argument(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=list(MODELS),
        metavar="MODEL",
        help="models to compare (default: all)",
    )
    zoo.add_argument("--output_dir", type=Path, default=Path("zoo_output"), help="folder for the picture, zoo.png")
    zoo.add_argument("--device", default="auto", help="auto, cpu or cuda, for training; serving is timed on the CPU")
    zoo.add_argument("--num_threads", type=cli.positive_int, help="CPU cores for the network (default: all)")


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = _add(commands, "train", "compare training steps with the original project and with the device's peak speed")
    train.add_argument(
        "--model_type", choices=list(MODELS), nargs="+", default=["swin3d_t", "swin3d_b"], help="models to train"
    )
    train.add_argument("--clip_len", type=cli.positive_int, help="number of frames per clip (default: the model's)")
    train.add_argument(
        "--img_size", type=cli.positive_int, help="side of the square input, in pixels (default: the model's)"
    )
    train.add_argument("--effective_batch", type=cli.positive_int, default=64, help="clips per step")
    train.add_argument(
        "--batch_size", type=auto_or_count, default=AUTO, help="clips per forward pass; auto: the most that fit"
    )
    train.add_argument(
        "--checkpoint_activations",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="recompute activations in the backward pass",
    )
    train.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=False, help="compile the network with torch.compile"
    )
    train.add_argument(
        "--original", action=argparse.BooleanOptionalAction, default=True, help="also time the original project's step"
    )
    train.add_argument(
        "--num_steps", type=cli.positive_int, default=10, help="number of timed steps; the median is shown"
    )
    train.add_argument("--num_warmup", type=cli.positive_int, default=3, help="number of untimed steps before these")
    train.add_argument(
        "--num_videos", type=cli.natural, default=512, help="number of videos in an epoch read from disk; 0: skip it"
    )
    train.add_argument("--data_dir", type=Path, help="folder of classes (default: drawn clips similar to HMDB51's)")
    train.add_argument(
        "--num_workers", type=cli.natural, default=default_num_workers(), help="number of decoding processes"
    )
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _add_recipe(commands: argparse._SubParsersAction) -> None:
    recipe = _add(
        commands, "recipe", "compare this recipe with the original's: same time on one core, 5-fold cross-validation"
    )
    recipe.add_argument("--data_dir", type=Path, required=True, help="folder of classes, such as fight_surv")
    recipe.add_argument("--groups", type=Path, help="CSV with columns path and source (the recording)")
    recipe.add_argument(
        "--output_dir",
        type=Path,
        default=Path("recipe_runs"),
        help="folder for one result file per run; existing results are reused",
    )
    recipe.add_argument(
        "--seconds", type=cli.positive_float, default=60.0, help="CPU time to train in each run, in seconds"
    )
    recipe.add_argument(
        "--seeds", type=cli.natural, nargs="+", default=[0, 1], help="random seeds; each repeats all runs"
    )
    recipes = ("recipe", "original", "dense", "slow", "flat")
    recipe.add_argument(
        "--recipes", nargs="+", choices=recipes, default=["recipe", "original"], help="recipes to compare"
    )
    recipe.add_argument("--core", type=cli.natural, help="CPU core to run on (default: any)")
    recipe.add_argument("--part", type=cli.natural, default=0, help="share to run, from 0 to --num_parts - 1")
    recipe.add_argument("--num_parts", type=cli.positive_int, default=1, help="number of processes that share the runs")


def _add_probe(commands: argparse._SubParsersAction) -> None:
    probe = _add(
        commands, "probe", "compare a probe on few videos of new drawn actions with training from scratch on them"
    )
    probe.add_argument(
        "--num_videos", type=cli.positive_int, nargs="+", default=[5, 10, 20], help="numbers of videos per class"
    )
    probe.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="swin3d_nano.pth files of demos, one per seed"
    )
    probe.add_argument("--num_clips", type=cli.positive_int, default=2560, help="number of clips per training run")


def _add_gpu(commands: argparse._SubParsersAction) -> None:
    gpu = _add(commands, "gpu", "check correctness, speed and memory on a GPU in eleven parts, one line per result")
    gpu.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        metavar="PART",
        help=f"parts to run, from {', '.join(PARTS)} (default: all)",
    )
    gpu.add_argument(
        "--model_type",
        nargs="+",
        choices=("swin3d_t", "swin3d_s", "swin3d_b"),
        default=["swin3d_b"],
        help="networks whose speed is measured, the first one in all parts; on the CPU swin3d_nano is used",
    )
    gpu.add_argument("--data_dir", type=Path, help="folder of classes (default: drawn clips similar to HMDB51's)")
    gpu.add_argument(
        "--time_limit_s", type=cli.positive_float, default=450.0, help="time limit for all parts together, in seconds"
    )
    gpu.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _add(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=cli.HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--save_json", type=Path, help="also write the results to this file")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    import importlib

    from video_module.files import write_json
    from video_module.machine import describe_machine

    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    module = importlib.import_module(f"video_module.benchmark.{args.what}")
    rows = module.run(args)
    table = module.format_rows if args.what == "gpu" else format_table
    print(table(rows) if rows else "some runs are still missing")
    written = [module.draw(args, rows)] if args.what == "zoo" else []
    if args.save_json:
        command = ["python", "-m", "video_module.benchmark", *(sys.argv[1:] if argv is None else argv)]
        write_json(args.save_json, {"command": " ".join(command), "machine": machine, "rows": rows})
        written.append(args.save_json)
    if written:
        cli.show_written(written)
    if args.what == "gpu" and any(map(module.has_failed, rows)):
        sys.exit(1)


def format_table(rows: list[dict]) -> str:
    """Format rows with the same keys as an aligned table, with a dash for None."""
    cells = [list(rows[0]), *([_format(value) for value in row.values()] for row in rows)]
    return align(cells, left=(0,))


def _format(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
