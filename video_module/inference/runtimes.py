"""The runtimes for ONNX files: onnxruntime's execution providers, built in or installed as plug-ins."""

import importlib
import json
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from video_module.devices import parse_device
from video_module.errors import InputError

CPU, OPENVINO = "cpu", "openvino"

# By the name that --device takes: onnxruntime's name, and what to install.
_BUILT_IN = {
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu in place of onnxruntime"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu in place of onnxruntime, and TensorRT"),
    "dml": ("DmlExecutionProvider", "onnxruntime-directml in place of onnxruntime (Windows)"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime (macOS)"),
    OPENVINO: ("OpenVINOExecutionProvider", "onnxruntime-openvino in place of onnxruntime"),
    CPU: ("CPUExecutionProvider", "onnxruntime"),
}

# What --device auto chooses from, in this order. The others have to be asked for: TensorRT takes minutes to prepare a
# file, and CoreML may compute in half precision.
_AUTO = ("cuda", "dml", OPENVINO, CPU)

# The package onnxruntime_ep_X is a plug-in with the runtime X.
_PLUGIN_PREFIX = "onnxruntime_ep_"


@dataclass(frozen=True)
class _Runtime:
    provider: str
    """onnxruntime's name for it."""
    devices: tuple[Any, ...] = ()
    """The devices of a plug-in; empty if it is built in."""


def choose_runtime(device: str, *, precision: str) -> str:
    """The runtime for a file of this precision. Raises InputError if `device` is not installed."""
    kind, _ = parse_device(device)
    if kind == CPU:
        return CPU
    found = _installed()
    if kind == "auto":
        # onnxruntime's own int8 operators are faster than OpenVINO's way of running them.
        return next(name for name in _AUTO if name in found and (name != OPENVINO or precision != "int8"))
    if kind not in found:
        raise InputError(f"--device {device}: {_why_missing(kind)}")
    return kind


def usable_runtimes() -> list[str]:
    """The runtimes of this machine, except those that have to be asked for."""
    return [name for name in _installed() if name in _AUTO or name not in _BUILT_IN]


def runs_on_cpu(runtime: str) -> bool:
    return runtime in (CPU, OPENVINO)


def open_session(path: Path, runtime: str = CPU, *, index: int = 0, num_threads: int | None = None):
    """Open a file; returns the session and the runtime that it uses, the CPU if the one asked for could not start.

    `index` is the number of the GPU. Raises InputError if the file is missing or damaged, or cannot run there.
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    # Errors only: warnings about the graph tell users nothing that they could act on.
    options.log_severity_level = 3
    # For a clip of swin3d_t, memory planning took 2.5 GB instead of 1.6, and saved no time.
    options.enable_mem_pattern = False
    if num_threads:
        options.intra_op_num_threads = num_threads
    chosen = _Runtime(_BUILT_IN[CPU][0]) if runtime == CPU else _installed()[runtime]
    settings, providers = _settings(runtime, index=index, num_threads=num_threads), None
    if chosen.devices:
        if index >= len(chosen.devices):
            raise InputError(f"--device {runtime}:{index}: only {len(chosen.devices)} devices, numbered from 0")
        options.add_provider_for_devices([chosen.devices[index]], settings)
    else:
        if runtime in ("cuda", "tensorrt"):
            # Loads CUDA's libraries from the packages that pip installs with torch.
            onnxruntime.preload_dlls()
        providers = [(chosen.provider, settings)]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # onnxruntime's exceptions have no base class of their own.
        reason = str(error).splitlines()[0]
        if runtime != CPU:
            raise InputError(f"{path}: cannot run on {runtime} ({reason}); use --device cpu") from None
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # torch.save() writes an archive
                reason = "it seems to be a PyTorch file; export it with convert_model.py"
        raise InputError(f"{path}: cannot be read as an ONNX file ({reason})") from None
    return session, runtime if session.get_providers()[0] == chosen.provider else CPU


def _settings(runtime: str, *, index: int, num_threads: int | None) -> dict[str, str]:
    if runtime == OPENVINO:
        # By default, it computes in bf16 or fp16 on processors that can.
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if num_threads:
            config["INFERENCE_NUM_THREADS"] = num_threads
        return {"load_config": json.dumps({"CPU": config})}
    return {"device_id": str(index)} if runtime in ("cuda", "tensorrt", "dml") else {}


@cache
def _installed() -> dict[str, _Runtime]:
    """The runtimes of this machine. Raises InputError if a plug-in cannot be loaded."""
    import onnxruntime

    built_in = onnxruntime.get_available_providers()
    found = {name: _Runtime(provider) for name, (provider, _) in _BUILT_IN.items() if provider in built_in}
    for name, module in _plugins().items():
        if name in found:
            continue
        plugin = importlib.import_module(module)
        try:
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{module} does not work with onnxruntime {onnxruntime.__version__} ({reason}); update or uninstall it"
            ) from None
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]
        if name == OPENVINO:
            devices = [device for device in devices if device.device.type == onnxruntime.OrtHardwareDeviceType.CPU]
        if devices:
            found[name] = _Runtime(plugin.get_ep_name(), tuple(devices))
    return found


def _plugins() -> dict[str, str]:
    """The modules of the installed plug-ins, by the runtime's name."""
    modules = [module.name for module in pkgutil.iter_modules() if module.name.startswith(_PLUGIN_PREFIX)]
    return {name.removeprefix(_PLUGIN_PREFIX).replace("_", "-"): name for name in modules}


def _why_missing(name: str) -> str:
    if name in _plugins():
        package = _plugins()[name].replace("_", "-")
        advice = "; onnxruntime-openvino, in place of onnxruntime, runs on other processors" if name == OPENVINO else ""
        return f"{package} found no device that it supports{advice}"
    if name in _BUILT_IN:
        return f"this onnxruntime does not have it; install {_BUILT_IN[name][1]}"
    known = ", ".join(name for name in _BUILT_IN)
    return f"not a device; use auto, {known}, or X if the plug-in onnxruntime-ep-X is installed"
