# Recognise the 400 classes of Kinetics with published weights, which are downloaded and exported once.
python run_model.py --video_path clip.mp4 --model swin3d_t
