"""Runs that are killed, stopped or out of disk space, and the files that they leave."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_model
from video_module.config import ClipConfig, TrainConfig
from video_module.engine import loop
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.interruption import StopRequest
from video_module.engine.loop import train_epoch
from video_module.engine.progress import PartialEpoch
from video_module.engine.state import capture, find_differences, restore
from video_module.engine.step import Trainer
from video_module.errors import InputError, Interrupted
from video_module.files import remove_partial
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec
from video_module.report import curves

ROOT = Path(__file__).parents[2]
# Everything that a run can use: mixing, a running mean, dropout, stochastic depth, repeats and a frozen start.
FLAGS = (
    *("--model_type", "swin3d_nano", "--device", "cpu", "--num_epochs", "4", "--effective_batch", "4"),
    *("--batch_size", "3", "--num_repeats", "2", "--mixup", "0.8", "--cutmix", "1", "--mix_off_epochs", "1"),
    *("--ema_decay", "0.99", "--drop_path", "0.2", "--head_dropout", "0.3", "--freeze_epochs", "1"),
)


def run(data: Path, save_path: Path, *flags: str) -> None:
    train_model.main(["--data_dir", str(data), "--save_path", str(save_path), "--num_workers", "0", *FLAGS, *flags])


@pytest.fixture(scope="module", autouse=True)
def empty_pictures():
    """Replace the drawing of curves after each epoch, which takes time; tests/engine/test_logbook.py tests it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "plot_curves", lambda path, logs, *, best_epoch: path.touch())
        yield


@pytest.fixture(scope="module")
def unbroken(drawn_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("unbroken") / "nano.pth"
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(drawn_data, path)
    torch.set_num_threads(num_threads)
    return path


def assert_same_run(expected: Path, got: Path) -> None:
    """Check that weights, their mean, optimiser and log are equal bit for bit."""
    for name in ("nano.pth", "nano_last.pth"):
        one, other = load_checkpoint(expected.with_name(name)), load_checkpoint(got.with_name(name))
        assert one.epoch == other.epoch
        assert one.weights.keys() == other.weights.keys()
        assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())
    states = [load_checkpoint(path.with_name("nano_last.pth")).training["trainer"] for path in (expected, got)]
    for key in ("model", "ema"):
        assert all(torch.equal(value, states[1][key][name]) for name, value in states[0][key].items())
    moments = [state["optimizer"]["state"] for state in states]
    assert all(
        torch.equal(value, moments[1][number][name])
        for number, moment in moments[0].items()
        for name, value in moment.items()
    )
    logs = [json.loads(path.with_name("nano_logs.json").read_text()) for path in (expected, got)]
    for column in ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "num_failed"):
        assert logs[0][column] == logs[1][column]


KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path

data, folder, flags, num_kills, seed = sys.argv[1], Path(sys.argv[2]), sys.argv[5:], int(sys.argv[3]), int(sys.argv[4])
sys.path.insert(0, os.getcwd())
import torch
import train_model
from video_module.data import dataset, distribution, labels, leaks, records
from video_module.engine import checkpoint, logbook, loop, step
torch.set_num_threads(1)
rng = random.Random(seed)

def start(save_path, number, dies_saving):
    pid = os.fork()
    if pid:
        return pid
    try:
        sys.stdout = open(folder / "log.txt", "a")
        if dies_saving:
            save, left = torch.save, [rng.randrange(2, 6)]
            def dies(content, file):
                save(content, file)
                left[0] -= 1
                if not left[0]:
                    file.truncate(file.tell() // 2)
                    os.kill(os.getpid(), signal.SIGKILL)
            torch.save = dies
        train_model.main(["--data_dir", data, "--save_path", str(save_path), *flags,
                          "--num_workers", str(number % 3), "--save_every", "1", "--resume"])
    except BaseException as error:
        import traceback
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)

kills, saving, number, done = 0, 0, 0, 0
while True:
    save_path = folder / str(done) / "nano.pth"
    dies_saving = kills < num_kills and number % 4 == 3
    pid = start(save_path, number, dies_saving)
    number += 1
    if dies_saving or kills >= num_kills:
        status = os.waitpid(pid, 0)[1]
    else:
        time.sleep(rng.uniform(0.1, 1.2))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        kills += 1
        saving += dies_saving
    elif status:
        sys.exit("a run failed")
    else:  # it came to its end
        done += 1
        if kills >= num_kills:
            break
print(kills, saving, done)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_killed_ten_times_ends_where_the_unbroken_one_does(unbroken, drawn_data, tmp_path):
    """The kills come at random moments, in steps and in saves, with 0, 1 and 2 workers in turn.

    The children are forked from a process that has imported everything, because importing torch takes seconds.
    """
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(drawn_data), str(tmp_path), "10", "5", *FLAGS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    kills, saving, num_runs = map(int, result.stdout.split())
    assert kills >= 10
    assert saving >= 1
    log = (tmp_path / "log.txt").read_text()
    assert "and step" in log  # a run was resumed within an epoch
    for number in range(num_runs):
        path = tmp_path / str(number) / "nano.pth"
        assert_same_run(unbroken, path)
        names = {file.name for file in path.parent.iterdir()}
        assert names == {"nano.pth", "nano_last.pth", "nano_logs.json", "nano_logs.csv", "nano_curves.png"}


def test_a_stop_within_a_step_gives_it_up_and_goes_on(unbroken, drawn_data, tmp_path, monkeypatch, capsys):
    """This uses one signal; tests/engine/test_interruption.py tests them all."""
    step, steps = Trainer.train_step, []

    def signalled(self, *arguments, **settings):
        steps.append(1)
        if len(steps) == 15:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **settings)

    monkeypatch.setattr(Trainer, "train_step", signalled)
    torch.set_num_threads(1)
    with pytest.raises(Interrupted, match=r"stopped in epoch 2, after step 2 of 12; saved .*nano_last.pth") as stop:
        run(drawn_data, tmp_path / "nano.pth")
    assert stop.value.exit_code == 128 + signal.SIGINT
    assert len(steps) == 15  # the second micro-batch of the last step was not started
    monkeypatch.undo()
    run(drawn_data, tmp_path / "nano.pth", "--resume")
    assert "resuming after epoch 1 of 4 and step 2 of 12" in capsys.readouterr().out
    assert_same_run(unbroken, tmp_path / "nano.pth")


# Without and with batch norm; stopped in the second and in the last micro-batch of the first step, and in the second
# step.
@pytest.mark.parametrize("model", ["swin3d_nano", pytest.param("mc3_18", marks=pytest.mark.slow)])
@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_step_that_is_given_up_leaves_nothing_behind(model, at, tmp_path):
    clip = get_spec(model).clip_config(clip_len=4, frame_stride=1, target_fps=None, img_size=32)
    steps = [
        [(torch.randint(0, 256, (6, *clip.shape), dtype=torch.uint8), torch.arange(6), ["a clip that fails"])]
        for _ in range(3)
    ]
    config = TrainConfig(num_epochs=1, batch_size=2, drop_path=0.0, max_failed_share=0.9, ema_decay=0.9)

    def make() -> Trainer:
        network = build_model(model, num_classes=6, clip=clip)
        return Trainer(network, config, device=torch.device("cpu"), steps_per_epoch=3)

    whole, first, second = make(), make(), make()
    expected = PartialEpoch()
    train_epoch(whole, steps, 0, expected, num_items=21)

    stop, partial, parts = StopRequest(), PartialEpoch(), []

    def look(_, inputs):
        parts.append(len(inputs[0]))
        if len(parts) == at:
            stop.signal = signal.SIGINT

    first.model.register_forward_pre_hook(look)
    with pytest.raises(Interrupted):
        train_epoch(first, steps, 0, partial, num_items=21, stop=stop)
    assert sum(parts) == 2 * at  # no micro-batch was started after the stop
    assert (partial.num_steps, partial.num_clips, len(partial.failures)) == (at // 3, 6 * (at // 3), at // 3)
    assert at == 3 or all(parameter.grad is None for parameter in first.model.parameters())
    restore(second, copy.deepcopy(capture(first)))
    train_epoch(second, steps[partial.num_steps :], 0, partial, num_items=21)
    got = capture(second)
    for key in ("model", "ema"):
        assert all(torch.equal(value, got[key][name]) for name, value in capture(whole)[key].items())
    for name in ("losses", "num_hits", "failures"):
        assert getattr(partial, name) == getattr(expected, name)


def test_a_stop_while_it_validates_is_saved_too(unbroken, drawn_data, tmp_path, monkeypatch, capsys):
    score_views = loop.score_views

    def signalled(*arguments, **settings):
        signal.raise_signal(signal.SIGTERM)
        return score_views(*arguments, **settings)

    monkeypatch.setattr(loop, "score_views", signalled)
    torch.set_num_threads(1)
    with pytest.raises(Interrupted, match="stopped in epoch 1, after step 12 of 12"):
        run(drawn_data, tmp_path / "nano.pth")
    monkeypatch.undo()
    run(drawn_data, tmp_path / "nano.pth", "--resume")
    assert_same_run(unbroken, tmp_path / "nano.pth")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a SIGTERM cannot be taken in there")
def test_the_scripts_exit_code_is_that_of_the_signal(drawn_data, tmp_path):
    command = [sys.executable, "train_model.py", "--data_dir", str(drawn_data), *FLAGS, "--num_epochs", "500"]
    process = subprocess.Popen(
        [*command, "--save_path", str(tmp_path / "nano.pth"), "--num_workers", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    os.killpg(process.pid, signal.SIGTERM)  # the workers get the signal too, as from a scheduler
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "_last.pth, continue with --resume" in errors
    assert "Traceback" not in errors
    assert load_checkpoint(tmp_path / "nano_last.pth").training is not None


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from video_module import cli
from video_module.engine.checkpoint import Checkpoint, save_checkpoint
from video_module.config import ClipConfig
import torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, content = Path(sys.argv[1]), lambda n: Checkpoint(
    model="swin3d_nano", weights={"w": torch.full((n,), 7.0)}, clip=ClipConfig(), class_names=["a"],
    train_config={"probe": True} if sys.argv[2:] else {})
save_checkpoint(path, content(1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
cli.run(lambda: save_checkpoint(path, content(1_000_000)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_ends_the_run_in_a_line_and_leaves_the_checkpoint_before(tmp_path):
    """A limit of 200 kB per file stands in for the full disk."""
    path = tmp_path / "x_last.pth"
    for kind, advice in (["probe"], "and run it again"), ([], "and continue with --resume"):
        command = [sys.executable, "-c", FULL_DISK, str(path), *kind]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.endswith(f"Free some space {advice}\n")
    assert result.stderr.startswith(f"error: {path}: cannot write the checkpoint (File too large); the previous one")
    assert result.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x_last.pth"]
    assert load_checkpoint(path).weights["w"].tolist() == [7.0] * 1000


def test_what_killed_saves_left_is_removed_and_nothing_else(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    stale = tmp_path / f".x_last.partial-{int(gone.stdout)}.pth"
    others = [tmp_path / name for name in (f".x_last.partial-{os.getpid()}.pth", ".y_last.partial-1.pth", "x_last.pth")]
    for path in (stale, *others):
        path.touch()
    remove_partial(tmp_path / "x_last.pth")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_an_earlier_run_is_told_of_and_lost_only_when_the_first_epoch_is_done(
    unbroken, drawn_data, tmp_path, monkeypatch, capsys
):
    for file in unbroken.parent.iterdir():
        shutil.copy(file, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    last, aside = tmp_path / "nano_last.pth", tmp_path / "nano_last_earlier.pth"
    step, steps = Trainer.train_step, []

    def signalled(self, *arguments, **settings):
        steps.append(1)
        if len(steps) % 3 == 0:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **settings)

    for _ in range(2):  # the second round replaces the state of the first, but not the one that was moved aside
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", signalled)
            with pytest.raises(
                Interrupted, match=r"; the state of the earlier run was moved to .*nano_last_earlier\.pth"
            ):
                run(drawn_data, tmp_path / "nano.pth", "--save_every", "1")
        assert "nano.pth of an earlier run will be replaced after the first epoch; use --resume to continue" in (
            capsys.readouterr().out
        )
        assert load_checkpoint(last).epoch == 0
        found = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != last}
        assert found.pop(aside.name) == before["nano_last.pth"]
        assert found == {name: content for name, content in before.items() if name != last.name}
    run(drawn_data, tmp_path / "nano.pth", "--resume")
    assert "note:" not in capsys.readouterr().out
    assert not aside.exists()
    last.unlink()
    run(drawn_data, tmp_path / "nano.pth", "--num_epochs", "1")
    assert "will be replaced after the first epoch; use another --save_path to keep it" in capsys.readouterr().out
    assert not aside.exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            ["--mixup", "0.2"],
            r"--mixup 0\.8 \(here 0\.2\); use another --save_path, or leave out --resume to replace it",
        ),
        (["--effective_batch", "8"], r"--effective_batch 4 \(here 8\)"),
        (
            ["--model_type", "swin3d_t"],
            r"--model_type swin3d_nano \(here swin3d_t\), --clip_len 8 \(here 32\).*, and \d more; use",
        ),
        (["--model_type", "swin3d_t", "--num_epochs", "8"], r"--model_type swin3d_nano .*, and \d more; use"),
        (["--clip_len", "4"], r"--clip_len 8 \(here 4\); use"),
        (["--img_size", "32"], r"--img_size 64 \(here 32\); use"),  # without the resize that follows from it
        (["--lr", "0.5", "--target_fps", "12"], r"no --target_fps \(here 12\.0\), --lr 0\.001 \(here 0\.5\); use"),
        (
            ["--num_epochs", "8"],
            r"--num_epochs 4 \(here 8\); --num_epochs cannot change, because the learning rates depend on it; to train "
            r"further, start a new run with --weights \S+nano\.pth and another --save_path, or leave out --resume",
        ),
    ],
)
def test_another_run_is_refused(unbroken, drawn_data, flags, reason):
    with pytest.raises(InputError, match=f"nano_last.pth was trained with {reason}"):
        run(drawn_data, unbroken, "--resume", *flags)


def test_class_weights_are_not_listed():
    def checkpoint(**settings) -> Checkpoint:
        config = TrainConfig().to_dict() | {"weights": "none", **settings}
        return Checkpoint(model="c3d", weights={}, clip=ClipConfig(), class_names=["a", "b"], train_config=config)

    weighted, plain = checkpoint(class_weights=[1.0, 2.0]), checkpoint(class_weights=None)
    assert find_differences(weighted, weighted) == []
    assert find_differences(plain, weighted) == ["no --class_weights"]
    assert find_differences(checkpoint(class_weights=[2.0, 1.0]), weighted) == ["other --class_weights"]


def test_a_run_goes_on_in_the_precision_that_auto_chose(unbroken, drawn_data, capsys):
    """The flag that the message suggests works, though the run was started with --precision auto."""
    run(drawn_data, unbroken, "--resume", "--precision", "fp32")
    assert "resuming after epoch 4 of 4" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"trained in fp32, and would continue in bf16; add --precision fp32"):
        run(drawn_data, unbroken, "--resume", "--precision", "bf16")


def test_moments_saved_on_a_gpu_are_those_of_the_same_weights_on_a_cpu():
    """On CUDA, the convolutions' weights and moments are in channels_last_3d, and the fused AdamW ignores strides."""
    clip = get_spec("x3d_s").clip_config(clip_len=4, img_size=32)
    config = TrainConfig(num_epochs=1, effective_batch=2, batch_size=2, mixup=0, cutmix=0, ema_decay=0)
    batch = torch.randint(0, 256, (2, *clip.shape), dtype=torch.uint8), torch.arange(2), []

    def make() -> Trainer:
        return Trainer(
            build_model("x3d_s", num_classes=2, clip=clip), config, device=torch.device("cpu"), steps_per_epoch=3
        )

    trained = make()
    trained.train_step([batch])
    state = copy.deepcopy(capture(trained))
    for moments in state["optimizer"]["state"].values():
        for name, value in moments.items():
            if value.ndim == 5:
                moments[name] = value.to(memory_format=torch.channels_last_3d)
    resumed = make()
    restore(resumed, state)
    for trainer in (trained, resumed):
        trainer.train_step([batch], step=1)
    assert all(
        torch.equal(value, other)
        for value, other in zip(trained.model.parameters(), resumed.model.parameters(), strict=True)
    )


def test_a_new_run_can_start_from_a_finished_one(unbroken, drawn_data, tmp_path):
    """It starts from the best epoch, including the head, as the message that refuses a longer run suggests."""
    path = tmp_path / "more.pth"
    run(drawn_data, path, "--weights", str(unbroken), "--num_epochs", "1", "--lr", "1e-12", "--ema_decay", "0")
    start, got = load_checkpoint(unbroken), load_checkpoint(path)
    assert got.train_config["weights"] == str(unbroken)
    assert all(torch.allclose(value, got.weights[name], atol=1e-6) for name, value in start.weights.items())


def test_other_videos_and_classes_are_refused(unbroken, drawn_data, tmp_path):
    for name, split in (("few", drawn_data / "train"), ("val", drawn_data / "val")):
        (tmp_path / name).mkdir()
        for label in ("jump", "wave", "push"):
            shutil.copytree(split / label, tmp_path / name / label)
    dirs = ["--train_dir", str(tmp_path / "few"), "--val_dir", str(tmp_path / "val")]
    with pytest.raises(InputError, match=r"6 classes \(here 3; missing: \['pull', 'sit', 'stand'\]; new: none"):
        run(drawn_data, unbroken, "--resume", *dirs)
    bare = tmp_path / "bare"
    for split in ("train", "val"):
        for video in (drawn_data / split).rglob("*.avi"):
            target = bare / split / video.parent.name / video.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, target)
    run(bare, tmp_path / "nano.pth", "--num_epochs", "1")
    target.unlink()
    with pytest.raises(InputError, match=r"other videos \(1 missing here, 0 new\)"):
        run(bare, tmp_path / "nano.pth", "--num_epochs", "1", "--resume")


def test_speed_may_differ_from_one_part_of_a_run_to_the_next(unbroken, drawn_data, capsys):
    flags = ["--batch_size", "2", "--checkpoint_activations", "--save_every", "3min", "--max_failed_share", "0.5"]
    run(drawn_data, unbroken, "--resume", *flags)
    assert "resuming after epoch 4 of 4" in capsys.readouterr().out


def test_a_run_of_another_version_is_refused_and_its_weights_still_serve(unbroken, drawn_data, tmp_path):
    last, state = tmp_path / "nano_last.pth", vars(load_checkpoint(unbroken.with_name("nano_last.pth")))
    config, training = state["train_config"], state["training"]
    earlier = {name: value for name, value in config.items() if name != "mixup"}
    unversioned = {name: value for name, value in training.items() if name != "version"}
    others = ({"train_config": earlier}, {"train_config": config | {"lookahead": 3}}, {"training": unversioned})
    for other in others:
        save_checkpoint(last, Checkpoint(**state | other))
        with pytest.raises(
            InputError, match=r"nano_last\.pth: saved by another version of this program.*--weights"
        ) as error:
            run(drawn_data, tmp_path / "nano.pth", "--resume")
        assert "\n" not in str(error.value)
    run(drawn_data, tmp_path / "new.pth", "--weights", str(last), "--num_epochs", "1")
