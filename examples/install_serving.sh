# Install what run_model.py and run_gradio.py need for .onnx files.
pip install onnxruntime opencv-python-headless numpy av matplotlib tqdm "gradio>=6.31,<6.32"
