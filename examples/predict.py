# Recognise the actions in a video. Needs no torch.
from video_module.inference.predictor import load_predictor
from video_module.inference.timeline import find_segments

prediction = load_predictor("model.onnx").predict_video("clip.mp4")
print(prediction.top_k(3))
print([(s.start_s, s.end_s, s.label, s.score) for s in find_segments(prediction)])
