# Export a weights file of the authors of Video Swin for the classes that it was trained on.
python convert_model.py --model_type swin3d_b_w16 --weights swin_base_patch244_window1677_sthv2.pth --obj_names ssv2.txt
python run_model.py --model swin_base_patch244_window1677_sthv2.onnx --video_path clip.mp4
