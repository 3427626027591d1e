"""Gradio's components where they would copy, convert, fetch or leave behind files.

Methods are replaced on the components themselves: of a derived class, Gradio writes a stub beside our source.
"""

import base64
import binascii
import io
from pathlib import Path
from typing import Any, TypeVar

import cv2
import gradio as gr
import numpy as np
from gradio.components import Component
from gradio.data_classes import FileData, ImageData, ListFiles
from PIL import Image, UnidentifiedImageError

from video_module.web.limits import MAX_HEIGHT, MAX_WIDTH, Refused

_JPEG_QUALITY = 80
_AnyComponent = TypeVar("_AnyComponent", bound=Component)


def in_place(component: _AnyComponent) -> _AnyComponent:
    """Leave the files of a gr.File or gr.Video where they are: none is copied or converted, no link is fetched.

    Its function gets the path of the upload, or None, and gives the path of a file, or a list of them.
    """
    component.async_move_resource_to_block_cache = _stay
    component.preprocess = _path_of
    component.postprocess = _file_data
    return component


async def _stay(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _path_of(payload: FileData | None) -> str | None:
    return None if payload is None else payload.path


def _file_data(value: str | list[str] | None) -> FileData | ListFiles | None:
    if value is None:
        return None
    if isinstance(value, list):
        return ListFiles(root=[_file_data(path) for path in value])
    path = Path(value)
    return FileData(path=str(path), orig_name=path.name, size=path.stat().st_size if path.is_file() else None)


def camera_frames(**settings: Any) -> gr.Image:
    """The visitor's camera, a frame at a time: uint8 RGB (H, W, 3), None, or the Refused that says why not."""
    component = gr.Image(sources=["webcam"], streaming=True, **settings)
    component.preprocess = _decode
    return component


def _decode(payload: ImageData | None) -> np.ndarray | Refused | None:
    if payload is None:
        return None
    header, _, data = (payload.url or "").partition(",")
    try:
        if not header.startswith("data:image/"):
            raise ValueError(header)
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        # By the header, before anything is decoded: 75 kB of PNG can hold 75 MB of pixels.
        if max(picture.size) > MAX_WIDTH or min(picture.size) > MAX_HEIGHT:
            raise ValueError(picture.size)
        return np.asarray(picture.convert("RGB"))
    except (ValueError, binascii.Error, UnidentifiedImageError, OSError):
        # Returned, not raised: the handler raises it in the visitor's language.
        return Refused("bad_picture")


def live_picture(**settings: Any) -> gr.Image:
    """Shows frames, uint8 RGB (H, W, 3), that travel inside the message: no file is written for them."""
    component = gr.Image(interactive=False, **settings)
    component.postprocess = _encode
    return component


def _encode(frame: np.ndarray | None) -> ImageData | None:
    if frame is None:
        return None
    jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    return ImageData(url="data:image/jpeg;base64," + base64.b64encode(jpeg).decode())


def answer(schema: dict[str, Any]) -> gr.JSON:
    """JSON with a schema, so that the description of the API says what comes back."""
    component = gr.JSON(visible=False, label="answer")
    component.api_info = lambda: schema
    return component
