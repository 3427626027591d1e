# Serve the web page and the API at http://127.0.0.1:7860.
python run_gradio.py --model doors.onnx
