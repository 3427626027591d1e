"""Action recognition in video: train, measure, export and serve Video Swin Transformer."""
