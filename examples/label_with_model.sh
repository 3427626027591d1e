# Let a model label new recordings, correct its table, and use it for training.
python run_model.py --video_path recordings --model doors.onnx --save_annotations found.csv
python split_data.py --annotations found.csv --output_dir more_data
