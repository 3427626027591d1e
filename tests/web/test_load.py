"""A short run of `python -m tests.web.load`."""

import sys

import numpy as np
import pytest

from tests.web import load
from tests.web.conftest import run_server


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_clients_with_valid_and_invalid_requests(exported, tmp_path):
    requests = load.make_requests(tmp_path, exported, num_requests=120, seed=0)
    with run_server(tmp_path / "server", exported, *load.FLAGS) as server:
        tally = load.run_load(server, requests, num_clients=20)
        assert tally.wrong == []
        assert sum(tally.kinds.values()) == 120
        memory = np.array(tally.memory_mb)
        assert np.median(memory[-24:]) - np.median(memory[24:48]) < 25, memory
        # Uploads abandoned in the queue are deleted later; all others must be gone.
        assert len(server.visitors_files()) <= tally.kinds["abandoned"]
        assert "Traceback" not in server.log.read_text(encoding="utf-8")
        assert server.process.poll() is None
