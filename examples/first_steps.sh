# Install, then run the demo or the tests.
pip install -r requirements.txt && python -m video_module.demo
pip install -r requirements.txt && pytest
