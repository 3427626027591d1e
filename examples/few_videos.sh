# Cross-validate: each video is tested once.
python split_data.py --input_dir videos --num_folds 5 --output_dir folds
python train_model.py --data_dir folds --fold all --model_type x3d_s --probe --save_path doors.pth
# For use, train one more on all videos.
python split_data.py --input_dir videos --test_fraction 0 --output_dir all_data
python train_model.py --data_dir all_data --model_type x3d_s --probe --save_path doors.pth
