# Compare two models on the same test split.
python test_model.py --compare doors_results.json doors_swin_results.json
