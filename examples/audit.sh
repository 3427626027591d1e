# Look for what two sides share: the parts of a split, two folders, and a random split of one folder.
python split_data.py --audit data
python split_data.py --audit train test
python split_data.py --audit videos
