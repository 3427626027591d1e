# Go through thousands of videos in eight processes. Run it again to continue after an interruption.
torchrun --nproc_per_node 8 run_model.py --video_path archive --model doors.onnx --save_jsonl results.jsonl
