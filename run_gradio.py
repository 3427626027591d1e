"""Serve a web page that recognises actions in uploaded videos."""

import argparse
import os
from pathlib import Path

from video_module import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--model", "--onnx_model_path", type=Path, nargs="+", required=True, help="X.onnx or X.pth; several: a choice"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument(
        "--share", action=argparse.BooleanOptionalAction, default=False, help="a public link through gradio.live"
    )
    parser.add_argument("--max_file_mb", type=cli.positive_int, default=200, help="largest upload, in megabytes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--num_threads", type=cli.positive_int, help="cores for the network (default: all)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from video_module.errors import InputError
    from video_module.inference.predictor import load_predictor

    predictors = {}
    for path in args.model:
        name = path.stem if path.stem not in predictors else str(path)
        predictors[name] = load_predictor(path, device=args.device, num_threads=args.num_threads)
        print(f"{name}: {predictors[name].summary()}")

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from video_module.web.page import I18N, THEME, build_page

    try:
        build_page(predictors).queue(max_size=20).launch(
            server_name=args.host,
            server_port=args.port,
            share=args.share,
            max_file_size=f"{args.max_file_mb}mb",
            i18n=I18N,
            theme=THEME,
        )
    except OSError as error:
        if "port" not in str(error):
            raise
        raise InputError(f"port {args.port} is in use; choose another with --port") from None


if __name__ == "__main__":
    cli.run(main)
