# Cross-validate: each video is tested once.
python split_data.py --input_dir videos --num_folds 5 --output_dir folds
python train_model.py --data_dir folds --fold all --model_type x3d_s --probe --save_path doors.pth
