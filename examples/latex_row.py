# Print a row of a LaTeX table from the summary of HMDB51's three folds.
import json
from pathlib import Path

folds = json.loads(Path("hmdb51_folds.json").read_text(encoding="utf-8"))
if not folds["comparable_with_published"]:
    print("% not comparable with published numbers:", folds["not_comparable_because"])
top1 = folds["figures"]["video_top1"]
name = f"{folds['model']}, {folds['weights']}".replace("_", r"\_")
print(rf"{name} & {folds['clip']['num_frames']} & ${100 * top1['mean']:.1f} \pm {100 * top1['sd']:.1f}$ \\")
