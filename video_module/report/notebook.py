"""Live output for notebooks. Needs IPython, which every notebook has."""

from typing import Any

from video_module.report.curves import draw_curves
from video_module.report.style import to_png


class LiveCurves:
    """Curves that are redrawn in place after each epoch: `train_model.main(…, on_epoch=LiveCurves())`."""

    def __init__(self, *, width: int = 800):
        """`width` is in CSS pixels."""
        self._width = width
        self._place: Any = None

    def __call__(self, progress: Any) -> None:
        """Show `progress.logs` and `progress.best_epoch`; see engine.progress."""
        from IPython.display import Image, display

        figure = draw_curves(progress.logs, best_epoch=progress.best_epoch)
        picture = Image(to_png(figure), width=self._width)
        if self._place is None:
            self._place = display(picture, display_id=True)
        else:
            self._place.update(picture)
