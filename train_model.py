"""Fine-tune a video classifier on the train split and keep the epoch with the best result on the val split.

With --probe, fit only the last layer, to both splits: this takes minutes and needs no GPU. With --fold all, train and
test on every fold of a cross-validation.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from video_module import cli
from video_module.config import TrainConfig
from video_module.errors import InputError, Interrupted
from video_module.machine import default_num_workers, started_by_torchrun
from video_module.models.registry import DEFAULT_MODEL, MODELS, NO_WEIGHTS, get_spec

if TYPE_CHECKING:
    from torch import device as Device

    from video_module.data.dataset import TrainingClips
    from video_module.engine.distributed import Group
    from video_module.engine.probe import Examples, Probe
    from video_module.engine.progress import Progress
    from video_module.engine.training_data import TrainingData


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder written by split_data.py")
    parser.add_argument(
        "--fold",
        metavar="{all,1,2,…}",
        help="train and test on one fold: 1 reads <data_dir>/fold1 and writes <save_path>_fold1; all: every fold, "
        "with a summary",
    )
    parser.add_argument("--train_dir", type=Path, help="class folders for training (default: <data_dir>/train)")
    parser.add_argument(
        "--val_dir", type=Path, help="validation videos, used to choose the epoch (default: <data_dir>/val)"
    )
    parser.add_argument(
        "--class_weights",
        type=Path,
        help="JSON written by calc_label_distribution.py --class_weights, so that rare classes count more",
    )
    parser.add_argument("--model_type", choices=list(MODELS), default=DEFAULT_MODEL, help="architecture")
    parser.add_argument(
        "--list_models", action="store_true", help="list the architectures with their cost, clips and weights, and exit"
    )
    parser.add_argument(
        "--weights",
        help="initial weights: name of published weights, a file, or none (default: the model's first published "
        "weights, or none)",
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="freeze the network and fit only its last layer to the train and val splits; the features of the videos "
        "are cached in <save_path>_features.npz for later runs",
    )
    parser.add_argument("--save_path", type=Path, help="where to save the best checkpoint (default: <model_type>.pth)")
    parser.add_argument(
        "--preview",
        type=Path,
        metavar="PICTURE",
        help="write a picture of some clips as training would see them, and exit",
    )
    parser.add_argument("--num_previews", type=cli.positive_int, default=6, help="number of videos in --preview")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from <save_path>_last.pth if it exists; the result is bit for bit that of an uninterrupted run "
        "(on a GPU, only with --deterministic)",
    )
    parser.add_argument(
        "--tensorboard", action=argparse.BooleanOptionalAction, help="also log to <save_path>_tensorboard"
    )
    cli.add_clip_arguments(parser)
    cli.add_config_arguments(parser.add_argument_group("training"), TrainConfig)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--num_workers",
        type=cli.natural,
        default=default_num_workers(),
        help="number of decoding processes; 0: decode in the main process",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, *, on_epoch: "Callable[[Progress], None]" = lambda progress: None) -> None:
    """Train; `on_epoch` is called after each epoch when its logs are written (in a notebook, to show them)."""
    args = parse_args(argv)
    if args.list_models:
        from video_module.models.cost import format_models

        print(format_models())
        return
    if args.save_path and args.save_path.suffix != ".pth":
        raise InputError(f"--save_path {args.save_path}: expected a name ending in .pth")
    if args.preview and args.preview.suffix not in cli.PICTURE_SUFFIXES:
        raise InputError(f"--preview {args.preview}: expected a name ending in {' or '.join(cli.PICTURE_SUFFIXES)}")
    args.save_path = args.save_path or Path(f"{args.model_type}.pth")
    # One file for all folds, which hold the same videos on other sides
    args.features_of = args.save_path
    config = get_spec(args.model_type).train_config(weights=weights_of(args), given=cli.given(args, TrainConfig))
    if args.probe:
        check_probe(args)
    cli.prepare_process(has_workers=True)
    from video_module.engine.distributed import join_group
    from video_module.engine.memory import forget_run
    from video_module.files import locked

    with join_group(args.device) as group:
        runs = folds_of(args) if args.fold else [args]
        for own in runs:
            check_paths(own)
        # One after the other in this process: torchrun's stay one group, and what was imported stays so.
        for own in runs:
            if args.fold:
                print(f"\n{own.data_dir}", flush=True)
            writes = group.is_first and not args.preview
            with locked(own.save_path) if writes else nullcontext():
                run(own, config, group, on_epoch)
                if args.fold:
                    test_fold(own, group)
            forget_run()
        if len(runs) > 1 and group.is_first:
            show_folds(args, runs)


def folds_of(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The flags of the run of each fold that --fold names."""
    from video_module.data.records import find_folds

    for flag in ("train_dir", "val_dir", "preview"):
        if getattr(args, flag):
            raise InputError(
                f"--{flag} cannot be combined with --fold; leave out --fold, and pass one fold as --data_dir"
            )
    folders = find_folds(args.data_dir)
    names = [folder.name.removeprefix("fold") for folder in folders]
    if args.fold not in ("all", *names):
        raise InputError(f"--fold {args.fold}: {args.data_dir} has folds {', '.join(names)}; pass one of them, or all")
    runs = []
    for folder, name in zip(folders, names, strict=True):
        if args.fold in ("all", name):
            save_path = args.save_path.with_name(f"{args.save_path.stem}_fold{name}.pth")
            runs.append(argparse.Namespace(**vars(args) | {"data_dir": folder, "save_path": save_path}))
    return runs


def test_fold(args: argparse.Namespace, group: "Group") -> None:
    """Test a fold's checkpoint as test_model.py would, unless its results are there."""
    import test_model

    argv = ["--test_dir", str(args.data_dir / "test"), "--checkpoint", str(args.save_path), "--device", args.device]
    argv += ["--num_workers", str(args.num_workers)]
    # The first process alone has written the checkpoint, and looks while the others wait for it
    if path := group.broadcast(lambda: test_model.find_earlier_results(args.save_path, args.data_dir / "test")):
        print(f"already tested: {path}")
        return
    test_args = test_model.parse_args(argv)
    test_model.check_paths(test_args)
    try:
        test_model.evaluate(test_args, group, argv)
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Interrupted) else 130
        way = "run the same command again" if args.probe else "use --resume"
        raise Interrupted(f"stopped while testing {args.save_path}; {way} to continue", exit_code=code) from None


def show_folds(args: argparse.Namespace, runs: list[argparse.Namespace]) -> None:
    """Print the results of all folds together, and write them beside the checkpoints."""
    from video_module.report import folds
    from video_module.report.results import result_paths, results_stem

    combined = folds.combine([result_paths(results_stem(run.save_path, None))[0] for run in runs])
    print(f"\n{folds.format_folds(combined)}")
    cli.show_written(folds.write_folds(args.save_path.with_name(f"{args.save_path.stem}_folds.json"), combined))


def weights_of(args: argparse.Namespace) -> str:
    return args.weights or get_spec(args.model_type).default_weights


def check_probe(args: argparse.Namespace) -> None:
    """Raise InputError, before torch is imported, on flags that do not go with --probe."""
    if weights_of(args) == NO_WEIGHTS:
        published = [name for name, spec in MODELS.items() if spec.weights]
        raise InputError(
            f"--probe requires a trained network: pass --weights X.pth for {args.model_type}, choose a model with "
            f"published weights ({', '.join(published)}), or leave out --probe to train from scratch"
        )
    kept = {"min_precision", "no_flip", "precision", "seed"}
    others = [name for name in ("resume", "tensorboard") if getattr(args, name)]
    if ignored := sorted(set(cli.given(args, TrainConfig)) - kept) + others:
        raise InputError(f"--{ignored[0]} cannot be combined with --probe, which does not train in epochs")
    if started_by_torchrun():
        raise InputError("--probe runs in one process; start it with python, not torchrun")


def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError, before any work, if something that will be written cannot be, or is an input."""
    from video_module.engine.logbook import log_paths
    from video_module.engine.state import last_path
    from video_module.files import check_output, check_outputs

    outputs = [("--preview", args.preview)]
    if args.probe:
        from video_module.engine.features import features_path

        outputs = [("--save_path", path) for path in (args.save_path, features_path(args.features_of))]
    elif not args.preview:
        *logs, board = log_paths(args.save_path)
        outputs = [("--save_path", path) for path in (args.save_path, last_path(args.save_path), *logs)]
        if args.tensorboard:
            check_output(board, folder=True)
    inputs = [("--weights", Path(weights_of(args))), ("--class_weights", args.class_weights)]
    check_outputs(outputs, inputs)


def run(args: argparse.Namespace, config: TrainConfig, group: "Group", on_epoch: "Callable[[Progress], None]") -> None:
    """Train, as one of the group's processes."""
    from video_module.data.distribution import read_class_weights
    from video_module.engine.device import choose_device
    from video_module.engine.logbook import Logbook
    from video_module.engine.loop import train
    from video_module.engine.state import last_path, show_replaced
    from video_module.engine.step import Trainer
    from video_module.engine.training_data import load_training_data
    from video_module.models.recognizer import build_model
    from video_module.report.curves import plot_curves

    device = choose_device(group.device)
    clip = get_spec(args.model_type).clip_config(
        clip_len=args.clip_len, frame_stride=args.frame_stride, target_fps=args.target_fps, img_size=args.img_size
    )
    data = load_training_data(args.data_dir, train_dir=args.train_dir, val_dir=args.val_dir, clip=clip, group=group)
    class_weights = read_class_weights(args.class_weights, data.class_names) if args.class_weights else None
    print(data)
    if args.preview:
        title = f"{args.model_type}, --augment {config.augment}"
        preview(args.preview, data.training_clips(config), title=title, num_videos=args.num_previews)
        return
    save_path = args.save_path
    if args.probe:
        probe(args, config, data, device, class_weights=class_weights, save_path=save_path)
        return
    logbook = Logbook(save_path, plot_curves=plot_curves, tensorboard=args.tensorboard)
    loaders = data.loaders(config, group=group, num_workers=args.num_workers, pin_memory=device.type == "cuda")
    resumes = args.resume and group.broadcast(last_path(save_path).is_file)
    if not resumes:
        show_replaced(save_path)
    model = build_model(
        args.model_type,
        num_classes=len(data.class_names),
        class_names=data.class_names,
        weights=NO_WEIGHTS if resumes else weights_of(args),  # a resumed run brings its own
        clip=clip,
        drop_path=config.drop_path,
        seed=config.seed,
    )
    num_steps = loaders.sampler.num_steps
    trainer = Trainer(model, config, device=device, steps_per_epoch=num_steps, class_weights=class_weights, group=group)
    size = f"{model.num_parameters / 1e6:.1f} M parameters"
    print(f"{args.model_type}: {size}, weights {weights_of(args)}, {device}, {trainer.precision}, {group}")

    def write_logs(progress: "Progress") -> None:
        logbook.write(progress)
        on_epoch(progress)

    settings = config.to_dict() | {"weights": weights_of(args), "class_weights": class_weights}
    template = data.checkpoint(model=args.model_type, train_config=settings)
    progress = train(trainer, template, loaders, save_path=save_path, resume=args.resume, on_epoch=write_logs)
    print(progress.summary())
    cli.show_written([save_path, last_path(save_path), *logbook.paths])


def probe(
    args: argparse.Namespace,
    config: TrainConfig,
    data: "TrainingData",
    device: "Device",
    *,
    class_weights: list[float] | None,
    save_path: Path,
) -> None:
    """Fit the last layer of a frozen network, and save it as a checkpoint like any other."""
    import torch

    from video_module.engine import features
    from video_module.engine.checkpoint import save_checkpoint
    from video_module.engine.device import choose_precision, send_network
    from video_module.engine.evaluation import torch_scorer
    from video_module.engine.probe import fit_probe, load_examples
    from video_module.models.recognizer import build_model
    from video_module.scores import ScoreClips

    cache = features.features_path(args.features_of)
    if save_path.is_file():
        print(f"note: {save_path} of an earlier run will be replaced; use another --save_path to keep it")
    precision = choose_precision(config.precision, device)
    model = build_model(
        args.model_type,
        num_classes=len(data.class_names),
        class_names=data.class_names,
        weights=weights_of(args),
        clip=data.clip,
        seed=config.seed,
    ).eval()
    print(f"{args.model_type}: weights {weights_of(args)}, {device}, {precision}")

    def make_embedding() -> ScoreClips:
        features.expose_features(model)
        if device.type == "cpu" and precision == "fp32":
            from video_module.inference.export import onnx_scorer

            print("exporting the network to ONNX, which is faster on a CPU", flush=True)
            return onnx_scorer(model)
        return torch_scorer(send_network(model, device), device=device, precision=precision)

    network = features.network_digest(model, precision=precision)
    examples = load_examples(data, config, cache, make_embedding, network=network, num_workers=args.num_workers)
    fitted = fit_probe(examples, class_weights=class_weights, seed=config.seed)
    show_estimate(fitted, examples)
    calibration = fitted.calibrate(examples.labels, min_precision=config.min_precision)
    if calibration is not None:
        print(calibration.describe(config.min_precision))
    features.replace_head(model.cpu(), torch.from_numpy(fitted.head.weight), torch.from_numpy(fitted.head.bias))
    settings = {"probe": True, "C": fitted.strength, "weights": weights_of(args), "class_weights": class_weights}
    settings |= {"no_flip": list(config.no_flip), "precision": precision, "seed": config.seed}
    checkpoint = data.checkpoint(model=args.model_type, train_config=settings)
    if calibration is not None:
        checkpoint = replace(checkpoint, **calibration.recorded)
    save_checkpoint(save_path, replace(checkpoint, weights=model.backbone.state_dict()))
    cli.show_written([save_path, cache])


def show_estimate(fitted: "Probe", examples: "Examples") -> None:
    """Print what the folds say of a probe."""
    import numpy as np

    from video_module.data.leaks import sources_known
    from video_module.report.metrics import summarise
    from video_module.report.statistics import interval_note
    from video_module.scores import video_score
    from video_module.tables import pluralize

    estimate = fitted.estimate
    if estimate is None:
        print(fitted.note)
        return
    scores = np.stack([video_score(rows) for rows in estimate.view_scores])
    figures = summarise(estimate.view_scores, scores, examples.labels, examples.class_names, sources=estimate.sources)
    interval = figures["intervals"]["video_top1"]
    shown = f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    is_known = sources_known(examples.videos)
    recordings = f"of {pluralize(figures['num_sources'], 'recording')}" if is_known else "of unknown recordings"
    print(
        f"cross-validated accuracy {figures['video_top1']:.3f}{shown} ({figures['num_videos']} videos {recordings} in "
        f"{estimate.num_folds} folds)"
    )
    if not is_known:
        print(
            "if several videos are cut from one recording, this accuracy is too high; see split_data.py --groups auto"
        )
    if note := interval_note({"video_top1": interval}, num_sources=figures["num_sources"]):
        print(note)
    print(estimate.curve_table())
    print(estimate.advice())


def preview(path: Path, clips: "TrainingClips", *, title: str, num_videos: int, num_epochs: int = 3) -> None:
    """Write a few videos as evaluation sees them, and as the first epochs of training do."""
    import numpy as np

    from video_module.data.dataset import EvaluationViews, Views
    from video_module.report.contact_sheet import Preview, write_preview

    centre = Views(num_clips=1, num_crops=1)
    indices = np.unique(np.linspace(0, len(clips) - 1, num_videos).round().astype(int))
    previews = []
    for index in indices:
        video = clips.video_of(index)
        dataset = EvaluationViews(clips.root, [video], clips.clip, centre)
        [view] = dataset.cut(*dataset[0])
        drawn = [clips[epoch, index][0].numpy() for epoch in range(num_epochs)]
        names = ["evaluation", *(f"epoch {epoch + 1}" for epoch in range(num_epochs))]
        previews.append(Preview(title=video.label, note=video.path, clips=[view, *drawn], names=names))
    write_preview(path, previews, title=f"{title}: clips as evaluation and the first epochs see them")
    cli.show_written([path])


if __name__ == "__main__":
    cli.run(main)
