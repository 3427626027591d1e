# The figures on real surveillance clips in docs/results.md.
python split_data.py --input_dir fight_surv --groups fight_surv/groups.csv --test_fraction 0.2 --output_dir fight
python train_model.py --data_dir fight --model_type swin3d_nano --save_path fight.pth
python test_model.py --test_dir fight/test --checkpoint fight.pth
python convert_model.py --checkpoint fight.pth --verify_dir fight/test --precision fp32 fp16 int8
