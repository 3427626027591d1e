import platform

from video_module.machine import available_cores, describe_machine


def test_machine_and_versions():
    import numpy

    machine = describe_machine(("numpy", "a-package-that-nobody-made"))
    assert machine["numpy"] == numpy.__version__
    assert machine["a-package-that-nobody-made"] == "not installed"
    assert machine["python"] == platform.python_version()
    assert machine["num_cores"] == available_cores() >= 1
    assert machine["processor"]
