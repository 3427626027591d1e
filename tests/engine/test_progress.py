from video_module.engine.progress import Progress


def test_best_epoch_is_by_accuracy_then_loss():
    progress = Progress()
    rows = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.7, 0.85)]
    kept = [
        progress.append({"epoch": number, "val_top1": top1, "val_loss": loss})
        for number, (top1, loss) in enumerate(rows, start=1)
    ]
    assert kept == [True, True, True, False, False]
    assert progress.best_epoch == 3


def test_patience_ends_a_run():
    progress = Progress()
    for number, top1 in enumerate((0.5, 0.7, 0.6, 0.7), start=1):
        assert not progress.is_over(num_epochs=9, patience=2)
        progress.append({"epoch": number, "val_top1": top1, "val_loss": 1.0})
    assert progress.is_over(num_epochs=9, patience=2)
    assert not progress.is_over(num_epochs=9, patience=0)
    assert progress.is_over(num_epochs=4, patience=0)
