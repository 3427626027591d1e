# Train on from a probe.
python train_model.py --data_dir data --model_type x3d_s --weights doors.pth --save_path doors_tuned.pth
