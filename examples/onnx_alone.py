# Classify a video with an exported model. Needs onnxruntime, OpenCV and NumPy, and nothing of this project.
import json

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
meta = json.loads(session.get_modelmeta().custom_metadata_map["video_module"])
clip = meta["clip"]

video = cv2.VideoCapture("clip.mp4")
fps = video.get(cv2.CAP_PROP_FPS)
frames = [frame[..., ::-1] for _, frame in iter(video.read, (False, None))]  # OpenCV reads BGR

# One frame every `step` frames, from the middle of the video. A short video gets smaller steps.
num_steps = clip["num_frames"] - 1
step = clip["frame_stride"] * (fps / clip["target_fps"] if clip["target_fps"] else 1)
if num_steps * step + 1e-6 >= len(frames):
    step = max(1, (len(frames) - 1) / num_steps)
wanted = (np.arange(num_steps + 1) * step + 1e-6).astype(int)
wanted = np.minimum(wanted + max(0, len(frames) - 1 - wanted[-1]) // 2, len(frames) - 1)

# Resize and crop the centre. `resize` is the short side, or [height, width]. The model normalises the pixels itself.
size, (height, width) = clip["resize"], frames[0].shape[:2]
if isinstance(size, list):
    height, width = size
else:
    height, width = int(height * size / min(height, width)), int(width * size / min(height, width))
top, left = round((height - clip["crop"]) / 2), round((width - clip["crop"]) / 2)
exact = cv2.INTER_LINEAR_EXACT
frames = [cv2.resize(frames[index], (width, height), interpolation=exact) for index in wanted]
frames = [frame[top : top + clip["crop"], left : left + clip["crop"]] for frame in frames]

[logits] = session.run(None, {"clips": np.stack(frames)[None]})
print(meta["class_names"][logits.argmax()])
