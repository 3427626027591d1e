"""Action recognition in video: train, measure, export and serve Video Swin Transformer."""

__version__ = "0.2.0"
