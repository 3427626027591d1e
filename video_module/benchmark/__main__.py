"""Measure speed on this machine, everything that is compared in one run.

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
    loader = _add(commands, "loader", "the loaders beside a bare OpenCV read, and beside a seek for every frame")
    loader.add_argument(
        "--data_dir",
        type=Path,
        nargs="+",
        help="folder of classes (default: drawn clips that resemble HMDB51's); of several, the training loaders alone "
        "are compared",
    )
    loader.add_argument("--num_videos", type=cli.positive_int, default=48, help="videos of one pass")
    loader.add_argument("--num_repeats", type=cli.positive_int, default=5, help="paired passes; medians are shown")
    loader.add_argument("--model_type", choices=list(MODELS), default="swin3d_b", help="whose clips are read")
    loader.add_argument("--augment", choices=AUGMENTATIONS, default="light", help="of the training loader")
    loader.add_argument("--num_workers", type=cli.positive_int, default=1, help="processes of each loader")
    predict = _add(commands, "predict", "torch eager, torch compiled and ONNX files, on one clip and on a long video")
    what = predict.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, nargs="+", help="X.pth and X.onnx files of one model")
    what.add_argument("--model_type", choices=list(MODELS), help="instead: files made now, of random weights")
    predict.add_argument("--video_path", type=Path, help="a long video (default: a drawn one)")
    predict.add_argument("--duration_s", type=cli.positive_float, default=60.0, help="seconds of the drawn video")
    predict.add_argument("--batch_size", type=cli.positive_int, default=4, help="windows of the video scored at once")
    predict.add_argument("--device", default="auto", help="auto, cpu or cuda")
    predict.add_argument("--num_threads", type=cli.positive_int, help="cores for the network (default: all)")
    predict.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="also torch.compile (minutes to warm up)"
    )
    _add_video(commands)
    _add_zoo(commands)
    _add_training(commands)
    _add_probe(commands)
    _add_gpu(commands)
    return parser.parse_args(argv)


def _add_video(commands: argparse._SubParsersAction) -> None:
    video = _add(commands, "video", "a whole video beside the original's way, a bare read and a bare encode")
    video.add_argument("--model", type=Path, required=True, help="X.onnx or X.pth")
    video.add_argument("--video_path", type=Path, required=True, help="the video")
    video.add_argument("--num_repeats", type=cli.positive_int, default=5, help="paired runs; medians are shown")
    video.add_argument(
        "--max_windows", type=cli.positive_int, default=200, help="windows of the original's way that are timed"
    )
    video.add_argument("--device", default="auto", help="auto, cpu or cuda")
    video.add_argument("--num_threads", type=cli.positive_int, help="cores for the network (default: all)")


def _add_zoo(commands: argparse._SubParsersAction) -> None:
    zoo = _add(commands, "zoo", "all models side by side: cost, size, speed of training and of serving; a picture")
    zoo.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="MODEL", help="which")
    zoo.add_argument("--output_dir", type=Path, default=Path("zoo_output"), help="folder for the picture, zoo.png")
    zoo.add_argument("--device", default="auto", help="for training: auto, cpu or cuda; serving is measured on the CPU")
    zoo.add_argument("--num_threads", type=cli.positive_int, help="cores for the network (default: all)")


def _add_training(commands: argparse._SubParsersAction) -> None:
    train = _add(commands, "train", "steps of this trainer beside the original's way and the device's own ceiling")
    train.add_argument("--model_type", choices=list(MODELS), nargs="+", default=["swin3d_t", "swin3d_b"])
    train.add_argument("--clip_len", type=cli.positive_int, help="frames of a clip (default: the model's)")
    train.add_argument("--img_size", type=cli.positive_int, help="side of a clip in pixels (default: the model's)")
    train.add_argument("--effective_batch", type=cli.positive_int, default=64, help="clips per step")
    train.add_argument("--batch_size", type=auto_or_count, default=AUTO, help="clips at once; auto: the most that fit")
    for name in ("checkpoint_activations", "compile"):
        train.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False)
    train.add_argument("--original", action=argparse.BooleanOptionalAction, default=True, help="time its way too")
    train.add_argument("--num_steps", type=cli.positive_int, default=10, help="of which the median is shown")
    train.add_argument("--num_warmup", type=cli.positive_int, default=3, help="steps before these")
    train.add_argument("--num_videos", type=cli.natural, default=512, help="files of the epoch read from disk; 0: none")
    train.add_argument("--data_dir", type=Path, help="folder of classes (default: drawn clips that resemble HMDB51's)")
    train.add_argument("--num_workers", type=cli.natural, default=default_num_workers(), help="decoding processes")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    recipe = _add(
        commands, "recipe", "what this recipe and the original's learn in the same time on one core, in 5 folds"
    )
    recipe.add_argument("--data_dir", type=Path, required=True, help="folder of classes, such as fight_surv")
    recipe.add_argument("--groups", type=Path, help="CSV with columns path and source")
    recipe.add_argument(
        "--output_dir", type=Path, default=Path("recipe_runs"), help="a file for each run; those there stay"
    )
    recipe.add_argument(
        "--seconds", type=cli.positive_float, default=60.0, help="of the core's time to train, for each run"
    )
    recipe.add_argument("--seeds", type=cli.natural, nargs="+", default=[0, 1])
    recipes = ("recipe", "original", "dense", "slow", "flat")
    recipe.add_argument("--recipes", nargs="+", choices=recipes, default=["recipe", "original"], help="ways to train")
    recipe.add_argument("--core", type=cli.natural, help="run on this core alone")
    recipe.add_argument("--part", type=cli.natural, default=0, help="which share of the runs to make, of --num_parts")
    recipe.add_argument("--num_parts", type=cli.positive_int, default=1, help="processes that share the runs")


def _add_probe(commands: argparse._SubParsersAction) -> None:
    probe = _add(commands, "probe", "a probe on few videos of new drawn actions, beside training from nothing on them")
    probe.add_argument("--num_videos", type=cli.positive_int, nargs="+", default=[5, 10, 20], help="of each class")
    probe.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="swin3d_nano.pth of demos; each is a seed"
    )
    probe.add_argument("--num_clips", type=cli.positive_int, default=2560, help="that each training sees")


def _add_gpu(commands: argparse._SubParsersAction) -> None:
    gpu = _add(commands, "gpu", "correctness, speed and memory on a card in eleven parts, a line for each result")
    gpu.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="which")
    gpu.add_argument(
        "--model_type",
        nargs="+",
        choices=("swin3d_t", "swin3d_s", "swin3d_b"),
        default=["swin3d_b"],
        help="networks whose speed is measured, the first one in all parts; on the CPU it is swin3d_nano",
    )
    gpu.add_argument("--data_dir", type=Path, help="folder of classes (default: drawn clips that resemble HMDB51's)")
    gpu.add_argument("--time_limit_s", type=cli.positive_float, default=450.0, help="for all parts together")
    gpu.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _add(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=cli.HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--save_json", type=Path, help="also write the figures here")
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
    """Rows of one set of keys as an aligned table; None is a dash."""
    cells = [list(rows[0]), *([_format(value) for value in row.values()] for row in rows)]
    return align(cells, left=(0,))


def _format(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
