import io

import pytest
import torch

from lightning_saliency.data import First, SampleCollector, make_call
from lightning_saliency.data.packing import pack, unpack


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pixels_of_eight_bits_come_back_bit_by_bit(dtype):
    pixels = torch.randint(0, 250, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(dtype) / 255
    values = (pixels - 0.45) / 0.22
    values[0, 0, 0, :3] = torch.tensor([-0.0, float("nan"), float("inf")], dtype=dtype)
    values[0, 1, 0, 0] = 0.0
    packed = pack(values)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    found = unpack(packed)
    assert found.dtype == dtype
    assert torch.equal(found.view(bits), values.view(bits))
    assert packed["indices"].dtype == torch.uint8


def test_other_numbers_are_left_as_they_are():
    assert pack(torch.rand(1, 3, 64, 64)) is None
    assert pack(torch.zeros(1, 3, 8, 8)) is None  # too few
    assert pack(torch.zeros(1, 3, 64, 64, dtype=torch.long)) is None
    assert pack(torch.zeros(1, 1000, 64)) is None


def test_a_checkpoint_holds_eight_photographs_in_a_byte_for_each_number():
    pixels = torch.randint(0, 256, (8, 3, 224, 224), generator=torch.Generator().manual_seed(0)) / 255
    images = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / 0.225
    collector = SampleCollector(First(8))
    collector.offer((images, torch.arange(8)), make_call(images, {}), torch.zeros(8, 10))
    stream = io.BytesIO()
    torch.save(collector.state_dict(), stream)
    assert stream.tell() < 1.1 * images.numel()
    stream.seek(0)
    other = SampleCollector(First(8))
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(torch.cat([sample.call.images for sample in other.current().samples]), images)
