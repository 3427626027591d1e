import pytest
import torch

from video_module.engine.device import choose_device, choose_precision
from video_module.errors import InputError

CPU = torch.device("cpu")


def test_precision_follows_the_device():
    assert choose_precision("auto", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(InputError, match="fp16 needs CUDA"):
        choose_precision("fp16", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none_is_an_error():
    assert choose_device("auto") == CPU
    with pytest.raises(InputError, match="finds no CUDA GPU"):
        choose_device("cuda")
