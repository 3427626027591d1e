# From HMDB51's two archives to the mean over its three official folds.
python split_data.py --protocol hmdb51 --input_dir hmdb51_org.rar --splits_dir test_train_splits.rar \
  --fold all --output_dir hmdb51_folds
python train_model.py --data_dir hmdb51_folds --fold all --model_type swin3d_b --save_path hmdb51.pth
