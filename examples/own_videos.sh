# From a folder of videos for each class to a recogniser, without a GPU.
python split_data.py --input_dir videos --output_dir data
python train_model.py --data_dir data --model_type x3d_s --probe --save_path doors.pth
python test_model.py --test_dir data/test --checkpoint doors.pth --report report.html
python convert_model.py --checkpoint doors.pth --verify_dir data/test
python run_model.py --video_path new.mp4 --model doors.onnx --save_video annotated.mp4
