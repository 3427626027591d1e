"""Take a screenshot of the page: `python -m tests.web.screenshot --model demo_output/swin3d_nano.onnx`.

Starts run_gradio.py on this machine and uploads a video in a browser. Needs playwright (requirements-dev.txt) and
Debian's chromium.
"""

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.web.conftest import CHROMIUM, run_server
from video_module import cli
from video_module.data.drawing import draw_recording
from video_module.files import replacing

_SIZE = {"width": 1200, "height": 900}
_PATIENCE_MS = 120_000
_COLORS = 96  # size of the PNG's palette; text stays sharp


def take_screenshot(model: Path, folder: Path) -> bytes:
    """Serve `model`, upload a drawn recording, and return a PNG of the page once the annotated video plays."""
    recording = folder / "recording.avi"
    draw_recording(recording, ("wave", "sit", "stand", "jump"), seed=0, source=40)
    with run_server(folder / "server", model) as server, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=_SIZE, locale="en-US", color_scheme="light")
        page.set_default_timeout(_PATIENCE_MS)
        page.goto(server.address)
        page.locator("#input-video input[type=file]").set_input_files(recording)
        page.locator(".example-title").wait_for()
        page.locator("#recognise:enabled").click()
        page.locator(".example-title").wait_for(state="detached")
        page.wait_for_function("() => document.querySelector('#result video')?.currentTime > 0.2")
        page.locator("#result video").evaluate("v => { v.pause(); v.currentTime = 1.0 }")
        page.wait_for_timeout(1500)
        picture = page.screenshot(full_page=True)
        browser.close()
    return picture


def main() -> None:
    parser = cli.make_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="ONNX file of a model trained on the drawn clips")
    parser.add_argument("--save_to", type=Path, default=Path("docs/page.png"), help="output file (PNG)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture = Image.open(io.BytesIO(take_screenshot(args.model, Path(folder)))).convert("RGB")
    with replacing(args.save_to) as partial:
        picture.quantize(_COLORS, dither=Image.Dither.NONE).save(partial, optimize=True)
    cli.show_written([args.save_to])


if __name__ == "__main__":
    cli.run(main)
