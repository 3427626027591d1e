# Fine-tune a whole network on the split that own_videos.sh made.
python calc_label_distribution.py --data_dir data --model_type swin3d_t
python train_model.py --data_dir data --model_type swin3d_t --save_path doors_swin.pth
python test_model.py --test_dir data/test --checkpoint doors_swin.pth --report report_swin.html
python convert_model.py --checkpoint doors_swin.pth --precision fp32 fp16 int8 --verify_dir data/test
