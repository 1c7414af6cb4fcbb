"""Which device a name means; GPUs are made up, since there may be none here."""

import pytest
import torch

from fanogan import FAnoGAN
from fanogan.training import device_of


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_one_of_several_gpus_is_named_by_its_number() -> None:
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert device_of("cuda") == torch.device("cuda")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=r"no device cuda:2 .*: give --device cuda:0, cuda:1 or cp"
    ):
        device_of("cuda:2")


@pytest.mark.parametrize("name", ["cuda:", "cuda:x", "cuda:-1", "cpu:1", "tpu"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{name}': give auto, cpu, cuda or mps"):
        device_of(name)


@pytest.mark.usefixtures("two_gpus")
def test_one_gpu_cannot_be_two() -> None:
    with pytest.raises(ValueError, match="cuda:1 is a single GPU, and 2 devices are to train"):
        FAnoGAN(device="cuda:1", devices=2)
