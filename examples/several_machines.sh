# Train one model on four machines; run the same line on each.
torchrun --nnodes 4 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint node1:29500 \
  train_model.py --data_dir data --model_type swin3d_t --effective_batch 256 --save_path doors_swin.pth
