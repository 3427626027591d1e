"""Serve a web page that recognises actions in uploaded videos and camera streams, with an API for programs."""

import argparse
from pathlib import Path

from video_module import cli
from video_module.config import TimelineConfig
from video_module.web.limits import Limits


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--model",
        "--onnx_model_path",
        nargs="+",
        required=True,
        help="X.onnx, X.pth, or the name of a model with published weights; with several, visitors can choose",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines")
    parser.add_argument("--port", type=cli.port, default=7860, help="port to listen on")
    parser.add_argument(
        "--share", action=argparse.BooleanOptionalAction, default=False, help="create a public link through gradio.live"
    )
    parser.add_argument(
        "--auth_file",
        type=Path,
        help="require a login; file with lines name:password (or set VIDEO_MODULE_AUTH to the same lines)",
    )
    parser.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="more names that the server answers to (default: IP addresses, localhost and the machine's own name)",
    )
    parser.add_argument("--root_path", default="", help="path where a proxy serves the page, such as /actions")
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="folder of example videos (default: drawings, for models that know them)",
    )
    parser.add_argument(
        "--class_names_translated",
        type=Path,
        metavar="FILE",
        help="table (.csv) of class names for the page, with the columns class and en, ru, or both",
    )
    cli.add_config_arguments(parser.add_argument_group("limits"), Limits)
    cli.add_config_arguments(parser.add_argument_group("timeline"), TimelineConfig)
    parser.add_argument("--device", default="auto", help=cli.DEVICE_HELP)
    parser.add_argument("--num_threads", type=cli.positive_int, help="CPU cores for the network (default: all)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    cli.prepare_process()
    from video_module.inference.predictor import load_predictor
    from video_module.inference.published import find_model
    from video_module.web.class_names import read_translations
    from video_module.web.login import read_accounts
    from video_module.web.server import serve

    accounts = read_accounts(args.auth_file)
    limits, config = cli.read_config(args, Limits), cli.read_config(args, TimelineConfig)
    predictors = {}
    for model in args.model:
        path = find_model(model)
        name = path.stem if path.stem not in predictors else str(path)
        predictors[name] = load_predictor(path, device=args.device, num_threads=args.num_threads)
        print(f"{name}: {predictors[name].summary()}", flush=True)
    translated = None
    if args.class_names_translated is not None:
        known = {name for predictor in predictors.values() for name in predictor.class_names}
        translated = read_translations(args.class_names_translated, known)
    serve(
        predictors,
        limits=limits,
        config=config,
        host=args.host,
        port=args.port,
        share=args.share,
        accounts=accounts,
        allowed_hosts=args.allowed_hosts,
        root_path=args.root_path,
        examples=args.examples,
        translated=translated,
    )


if __name__ == "__main__":
    cli.run(main)
