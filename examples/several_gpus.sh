# Train one model on the eight GPUs of a machine.
torchrun --nproc_per_node 8 train_model.py --data_dir data --model_type swin3d_t --save_path doors_swin.pth
