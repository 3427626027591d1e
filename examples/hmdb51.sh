# From HMDB51's two archives to the mean over its three official folds.
python split_data.py --protocol hmdb51 --input_dir hmdb51_org.rar --splits_dir test_train_splits.rar \
  --fold all --output_dir hmdb51_folds
python train_model.py --data_dir hmdb51_folds --fold all --model_type swin3d_b --save_path hmdb51.pth
for fold in 1 2 3; do
  python test_model.py --test_dir hmdb51_folds/fold$fold/test --checkpoint hmdb51_fold$fold.pth \
    --num_clips 10 --num_crops 3 --output_dir views_10x3
done
python test_model.py --results views_10x3/hmdb51_fold?_results.json --output_dir views_10x3
