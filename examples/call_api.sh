# Ask a running run_gradio.py what happens in a video, and when.
curl -sS -F file=@clip.mp4 -F top_k=3 http://127.0.0.1:7860/api/segments
