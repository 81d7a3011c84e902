import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.visualization import encode_gif, encode_picture


def test_small_and_flat_pictures_are_png_and_photographs_jpeg():
    generator = torch.Generator().manual_seed(0)

    def opened(picture):
        content, form = encode_picture(picture)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == form
            return form, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1), len(content)

    noise = torch.randint(0, 256, (3, 25, 25), generator=generator, dtype=torch.uint8)
    photo = torch.nn.functional.interpolate(noise[None].float(), size=(900, 900), mode="bicubic").clamp(0, 255)[0]
    photo = (photo + torch.randn(3, 900, 900, generator=generator) * 6).clamp(0, 255).to(torch.uint8)
    flat = torch.zeros(3, 900, 900, dtype=torch.uint8)
    flat[:, 100:300, 200:700] = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None]

    form, pixels, _ = opened(photo[:, :600, :600])
    assert form == "PNG"  # small
    assert torch.equal(pixels, photo[:, :600, :600])
    form, pixels, _ = opened(flat)
    assert form == "PNG"
    assert torch.equal(pixels, flat)
    form, pixels, size = opened(photo)
    assert form == "JPEG"
    assert (pixels.float() - photo.float()).abs().mean() < 6
    assert size < photo.numel() / 6
    with pytest.raises(ValueError, match="`picture`"):
        encode_picture(photo.float())


def test_frames_that_differ_in_size_or_are_none_are_refused():
    frame = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="`frames` to be one or more of one size, got 0"):
        encode_gif([])
    with pytest.raises(ValueError, match="`frames` to be one or more of one size, got 2"):
        encode_gif([frame, frame[:, :4]])
