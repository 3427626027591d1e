import pkgutil
from functools import cache

import onnxruntime
import pytest

from video_module.errors import InputError
from video_module.inference import runtimes
from video_module.inference.predictor import load_predictor
from video_module.inference.runtimes import choose_runtime, open_session, usable_runtimes


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Return a function that makes onnxruntime list additional execution providers; plug-ins are in tmp_path."""
    find_modules = pkgutil.iter_modules
    monkeypatch.setattr(pkgutil, "iter_modules", lambda: find_modules([str(tmp_path)]))
    monkeypatch.syspath_prepend(tmp_path)

    def pretend(*names: str) -> None:
        # Clear the cache of installed plug-ins.
        monkeypatch.setattr(runtimes, "_installed", cache(runtimes._installed.__wrapped__))
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*names, "CPUExecutionProvider"])

    pretend()
    return pretend


@pytest.fixture
def plugin(pretend, tmp_path, monkeypatch):
    """Return a function that installs a plug-in without a library and returns the list of registered ones."""
    registered = []
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *args: registered.append(args))

    def install(name: str, provider: str) -> list:
        code = f"def get_library_path():\n    return 'lib.so'\n\n\ndef get_ep_name():\n    return {provider!r}\n"
        (tmp_path / f"onnxruntime_ep_{name}.py").write_text(code)
        return registered

    return install


def test_auto_prefers_a_gpu_then_openvino_except_for_int8(pretend):
    assert choose_runtime("auto", precision="fp32") == "cpu"
    pretend("OpenVINOExecutionProvider")
    assert [choose_runtime("auto", precision=name) for name in ("fp32", "fp16", "int8")] == ["openvino"] * 2 + ["cpu"]
    assert choose_runtime("openvino", precision="int8") == "openvino"
    assert usable_runtimes() == ["openvino", "cpu"]
    pretend("OpenVINOExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert choose_runtime("auto", precision="int8") == "cuda"
    assert choose_runtime("tensorrt:1", precision="fp32") == "tensorrt"
    assert usable_runtimes() == ["cuda", "openvino", "cpu"]


@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("cuda", "install onnxruntime-gpu in place of onnxruntime"),
        ("openvino", "install onnxruntime-openvino in place of onnxruntime"),
        ("tensorrt", "onnxruntime-gpu in place of onnxruntime, and TensorRT"),
        ("banana", "not a device; use auto, cuda, .*, cpu, or X if the plug-in onnxruntime-ep-X is installed"),
    ],
)
def test_error_says_what_to_install(pretend, exported, device, advice):
    with pytest.raises(InputError, match=f"--device {device}: .*{advice}"):
        load_predictor(exported, device=device)


def test_a_gpu_that_fails_to_start_is_an_error_only_if_requested(pretend, exported):
    pretend("DmlExecutionProvider")  # not available on Linux
    with pytest.warns(UserWarning, match="DmlExecutionProvider"):
        assert load_predictor(exported).device == "cpu"
    with (
        pytest.warns(UserWarning, match="DmlExecutionProvider"),
        pytest.raises(InputError, match="--device dml: onnxruntime could not start it"),
    ):
        load_predictor(exported, device="dml")


def test_a_plug_in_adds_a_device(plugin, exported):
    registered = plugin("some_chip", "CPUExecutionProvider")  # the only provider that has a device everywhere
    predictor = load_predictor(exported, device="some-chip")
    assert predictor.device == "some-chip" and registered == [("some-chip", "lib.so")]
    assert load_predictor(exported).device == "cpu"
    assert usable_runtimes() == ["cpu", "some-chip"]
    with pytest.raises(InputError, match="--device some-chip:1: only 1 devices, numbered from 0"):
        open_session(exported, "some-chip", index=1)


def test_a_plug_in_without_a_device_is_not_chosen(plugin, exported):
    plugin("openvino", "OpenVINOExecutionProvider")
    assert load_predictor(exported).device == "cpu"
    with pytest.raises(InputError, match=r"onnxruntime-ep-openvino found no device .* onnxruntime-openvino, in place"):
        load_predictor(exported, device="openvino")


def test_error_names_a_plug_in_that_does_not_load(pretend, tmp_path, exported):
    (tmp_path / "onnxruntime_ep_broken.py").write_text("def get_library_path():\n    return 'missing.so'\n")
    with pytest.raises(InputError, match=r"onnxruntime_ep_broken does not work with onnxruntime .*missing\.so"):
        load_predictor(exported)
    assert load_predictor(exported, device="cpu").device == "cpu"
