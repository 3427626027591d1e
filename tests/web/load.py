"""Send many valid and invalid requests at once: `python -m tests.web.load --model swin3d_nano.onnx`.

Starts run_gradio.py on this machine and reports wrong answers, waiting times, memory and files left behind.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from tests.web.conftest import Server, run_server
from video_module import cli
from video_module.data.drawing import draw_recording
from video_module.data.encoding import write_video
from video_module.inference.predictor import load_predictor

META = {"_type": "gradio.FileData"}
MAX_FILE_MB, MAX_SECONDS = 5, 10
FLAGS = ["--max_file_mb", str(MAX_FILE_MB), "--max_seconds", str(MAX_SECONDS), "--keep_minutes", "2"]
_SHARE_BAD = 0.3
_PATIENCE_S = 600


@dataclass(frozen=True)
class Request:
    """A request and its expected answer."""

    kind: str
    video: Path
    expected: dict[str, float] | str | int | None
    """Scores by label, start of an error message, HTTP status of a refused upload, or None to leave without answer."""
    inputs: dict = field(default_factory=dict)


@dataclass
class Tally:
    """The results of all requests."""

    kinds: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    num_busy: int = 0
    waits_s: list[float] = field(default_factory=list)
    """From the upload to the answer, including retries while the server is busy."""
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of the server after each request."""
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_requests(folder: Path, model: Path, *, num_requests: int, seed: int) -> list[Request]:
    """Return valid and invalid requests in random order."""
    rng = random.Random(seed)
    predictor = load_predictor(model)
    good = []
    for number, actions in enumerate((("wave",), ("sit", "stand"), ("push",), ("jump", "pull", "wave"))):
        path = folder / f"good{number}.{'mp4' if number % 2 else 'avi'}"
        draw_recording(path, actions, seed=seed, source=number)
        scores = {item["label"]: item["score"] for item in predictor.predict_video(path).top_k(5)}
        good += [Request("good", path, scores)] * 3
        good.append(Request("equal", folder / "good0.avi", good[0].expected))
    frames = (np.full((48, 64, 3), 90, np.uint8) for _ in range(25 * MAX_SECONDS + 2))
    write_video(folder / "long.avi", frames, fps=25)
    (folder / "broken.mp4").write_bytes(rng.randbytes(20_000))
    (folder / "empty.mp4").touch()
    (folder / "cut.avi").write_bytes((folder / "good0.avi").read_bytes()[:700])
    (folder / "large.mp4").write_bytes(bytes(MAX_FILE_MB * 1_000_000 + 1))
    unreadable = "This file cannot be read as a video."
    bad = [
        Request("broken", folder / "broken.mp4", unreadable),
        Request("empty", folder / "empty.mp4", 400),
        Request("cut", folder / "cut.avi", unreadable),
        Request("long", folder / "long.avi", "This video is longer than"),
        Request("large", folder / "large.mp4", 413),
        Request("no such model", folder / "good0.avi", "No such model", {"model": "x"}),
        Request("abandoned", folder / "good3.mp4", None),
    ]
    num_bad = round(_SHARE_BAD * num_requests)
    requests = [bad[n % len(bad)] for n in range(num_bad)]
    requests += [good[n % len(good)] for n in range(num_requests - num_bad)]
    rng.shuffle(requests)
    return requests


def run_load(server: Server, requests: list[Request], *, num_clients: int) -> Tally:
    """Send all requests from `num_clients` clients in parallel, each sending its next one after an answer."""
    tally = Tally()
    with ThreadPoolExecutor(num_clients) as pool:
        list(pool.map(lambda request: _make(server, request, tally), requests))
    return tally


def _make(server: Server, request: Request, tally: Tally) -> None:
    begin = time.monotonic()
    num_busy, wrong = 0, None
    try:
        # Limits apply per address, so each client gets its own.
        headers = {"x-forwarded-for": f"198.51.100.{1 + int(threading.current_thread().name.rpartition('_')[2])}"}
        with httpx.Client(timeout=_PATIENCE_S, headers=headers) as client:
            num_busy, wrong = _ask(client, server, request)
    except Exception as error:  # counts as a wrong answer
        wrong = repr(error)
    with tally.lock:
        tally.kinds[request.kind] += 1
        tally.num_busy += num_busy
        tally.waits_s.append(time.monotonic() - begin)
        tally.memory_mb.append(memory_mb(server))
        if wrong:
            tally.wrong.append(f"{request.kind}: {wrong}")


def _ask(client: httpx.Client, server: Server, request: Request) -> tuple[int, str | None]:
    """Return how often the server was busy, and what was wrong with its answer, if anything."""
    with open(request.video, "rb") as file:
        reply = client.post(f"{server.api}/upload", files={"files": (request.video.name, file)})
    if isinstance(request.expected, int):
        return 0, None if reply.status_code == request.expected else f"{reply.status_code} {reply.text}"
    [path] = reply.raise_for_status().json()
    inputs = {"video": {"path": path, "meta": META}} | request.inputs
    num_busy = 0
    while (reply := client.post(f"{server.api}/call/v2/predict", json=inputs)).status_code == 503:
        if not reply.json()["detail"].startswith("The server is busy"):
            return num_busy, reply.text
        num_busy += 1
        time.sleep(random.uniform(0.2, 1.0))
    url = f"{server.api}/call/predict/{reply.raise_for_status().json()['event_id']}"
    if request.expected is None:  # leave at once
        with client.stream("GET", url):
            return num_busy, None
    kind, data = (line.partition(": ")[2] for line in client.get(url).text.strip().splitlines()[-2:])
    answer = json.loads(data)
    if isinstance(request.expected, str):
        right = kind == "error" and str(answer["error"]).startswith(request.expected)
    else:
        got = {item["label"]: item["score"] for item in answer[0]["top_k"]} if kind == "complete" else {}
        right = set(got) == set(request.expected) and all(
            abs(got[label] - score) < 1e-5 for label, score in request.expected.items()
        )
    return num_busy, None if right else f"{kind} {data}"


def memory_mb(server: Server) -> float:
    """Return the resident memory of the server's process (Linux only)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS"))


def wait_until_tidy(server: Server, *, seconds: float) -> list[Path]:
    """Wait until all visitors' files are deleted, and return those left when the time is up."""
    end = time.monotonic() + seconds
    while (files := server.visitors_files()) and time.monotonic() < end:
        time.sleep(0.2)
    return files


def describe(tally: Tally, *, seconds: float, left: list[Path]) -> str:
    waits, memory = np.array(tally.waits_s), np.array(tally.memory_mb)
    fifths = ", ".join(f"{np.median(part):.0f}" for part in np.array_split(memory, 5))
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.kinds.most_common())
    return "\n".join(
        [
            f"{len(waits)} requests in {seconds:.0f} s: {kinds}",
            f"wrong answers: {len(tally.wrong)}; answers that the server is busy: {tally.num_busy}",
            f"from upload to answer: median {np.median(waits):.1f} s, 95 % within {np.quantile(waits, 0.95):.1f} s",
            f"resident memory, median of each fifth of the requests: {fifths} MB",
            f"files left: {len(left)}",
            *tally.wrong[:10],
        ]
    )


def parse_args() -> argparse.Namespace:
    parser = cli.make_parser(__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="ONNX file of a model trained on the drawn clips")
    parser.add_argument("--clients", type=cli.positive_int, default=50, help="number of clients at a time")
    parser.add_argument("--requests", type=cli.positive_int, default=500, help="total number of requests")
    parser.add_argument("--seed", type=cli.natural, default=0, help="random seed for the order of the requests")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        requests = make_requests(Path(folder), args.model, num_requests=args.requests, seed=args.seed)
        with run_server(Path(folder) / "server", args.model.resolve(), *FLAGS) as server:
            begin = time.monotonic()
            tally = run_load(server, requests, num_clients=args.clients)
            seconds = time.monotonic() - begin
            left = wait_until_tidy(server, seconds=160)
            print(describe(tally, seconds=seconds, left=left))
            log = server.log.read_text(encoding="utf-8")
            print(f"tracebacks in its log: {log.count('Traceback')}; still serving: {server.process.poll() is None}")


if __name__ == "__main__":
    main()
