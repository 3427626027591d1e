# Cut the actions that a table lists out of long recordings, and split them.
python split_data.py --annotations actions.csv --background nothing --output_dir data
