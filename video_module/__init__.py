"""Action recognition in video: train, measure, export and serve Video Swin Transformer."""

import os

__version__ = "0.2.0"

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it would ask the network for news
