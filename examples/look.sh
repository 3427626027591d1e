# Look at the data before training.
python calc_label_distribution.py --data_dir data --examples examples.png --class_weights weights.json
python train_model.py --data_dir data --preview sheet.png
