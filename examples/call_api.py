# Ask a running run_gradio.py for the best classes of a video.
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")  # auth=("name", "password") if the server asks for one
answer = client.predict(video=handle_file("clip.mp4"), top_k=3, api_name="/predict")
print(answer["duration_s"], answer["top_k"])
