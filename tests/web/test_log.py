import io

from video_module.web.log import BoundedLog


def test_lines_over_the_limit_are_dropped_and_counted():
    now, stream = [0.0], io.StringIO()
    log = BoundedLog(stream, lines_per_minute=10, clock=lambda: now[0])
    for number in range(100):
        print(number, file=log)
    assert stream.getvalue().split() == [str(number) for number in range(10)]
    now[0] = 61
    print("later", file=log)
    assert stream.getvalue().splitlines()[10:] == ["(90 more lines were left out here)", "later"]
