"""How the output of a layer is read as a map, whatever its shape."""

from dataclasses import dataclass

import pytest
import torch

from lightning_saliency.evidence import Layout
from lightning_saliency.evidence.layout import grid_of, plain_layout

SIZE = (32, 48)
MAPS = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOKENS = MAPS.flatten(2).mT
EXTRA = torch.full((2, 1, 5), 9.0, dtype=torch.float64)
LAYOUTS = [
    (Layout("NCHW"), MAPS),
    (Layout("NHWC"), MAPS.permute(0, 2, 3, 1)),
    (Layout("NLD"), TOKENS),
    (Layout("NLD", prefix=1), torch.cat([EXTRA, TOKENS], 1)),
    (Layout("NLD", prefix=2, suffix=3), torch.cat([EXTRA, EXTRA, TOKENS, EXTRA, EXTRA, EXTRA], 1)),
    (Layout("NDL"), MAPS.flatten(2)),
    (Layout("LND", prefix=1), torch.cat([EXTRA, TOKENS], 1).transpose(0, 1)),
]


@pytest.mark.parametrize(("layout", "tensor"), LAYOUTS)
def test_a_map_is_read_and_another_one_written(layout, tensor):
    assert torch.equal(layout.read(tensor, SIZE), MAPS)
    written = layout.write(tensor, 2 * MAPS, SIZE)
    assert torch.equal(layout.read(written, SIZE), 2 * MAPS)
    assert torch.equal(layout.read(tensor, SIZE), MAPS)  # a copy was written
    assert written.shape == tensor.shape
    if layout.is_tokens:
        tokens, others = layout.token_grid(tensor.shape, SIZE), layout.sequence(written)
        assert (tokens.prefix, tokens.suffix, tokens.grid, len(tokens)) == (
            layout.prefix,
            layout.suffix,
            (4, 6),
            24 + layout.prefix + layout.suffix,
        )
        assert (others[:, : layout.prefix] == 9).all()
        assert (others[:, len(tokens) - layout.suffix :] == 9).all()


@dataclass
class Output:
    features: torch.Tensor
    names: tuple[str, ...]


@pytest.mark.parametrize(
    ("output", "element"),
    [
        (("a", MAPS), (1,)),
        ([MAPS, MAPS + 1], (0,)),
        ({"other": None, "map": [MAPS]}, ("map", 0)),
        (Output(MAPS, ("a",)), ("features",)),
        (MAPS, ()),
    ],
)
def test_the_tensor_in_an_output_object_is_read_and_replaced(output, element):
    layout = Layout(element=element)
    assert layout.tensor(output) is MAPS
    replaced = layout.replaced(output, MAPS + 2)
    assert type(replaced) is type(output)
    assert torch.equal(layout.tensor(replaced), MAPS + 2)
    assert layout.tensor(output) is MAPS


def test_tokens_that_are_no_grid_of_the_images_aspect_are_refused():
    with pytest.raises(ValueError, match=r"the 25 tokens of the target layer to be 0 \+ a grid .* 32×48 images"):
        Layout("NLD").read(torch.zeros(2, 25, 5), SIZE)
    with pytest.raises(ValueError, match=r"to return NHWC, got shape \(2, 5\)"):
        Layout("NHWC").read(torch.zeros(2, 5), SIZE)


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (196, (224, 224), (14, 14)),
        (1370 - 1, (518, 518), (37, 37)),
        (24, (64, 96), (4, 6)),
        (35, (70, 98), (5, 7)),
        (2, (64, 96), (1, 2)),  # strides of 33 to 48, rounded up or down
        (8, (64, 96), (2, 4)),
        (197, (224, 224), None),
        (12, (224, 224), None),
        (0, (224, 224), None),
    ],
)
def test_the_grid_of_some_patches_has_the_images_aspect(count, size, grid):
    assert grid_of(count, size) == grid


@pytest.mark.parametrize(
    ("shape", "size", "axes"),
    [
        ((2, 768, 7, 7), (224, 224), "NCHW"),
        ((2, 7, 7, 768), (224, 224), "NHWC"),
        ((2, 16, 4, 90), (128, 512), "NCHW"),  # a spectrogram, pooled along one axis: no other reading fits
        ((2, 8, 8, 8), (224, 224), None),
        ((2, 197, 768), (224, 224), None),
    ],
)
def test_a_shape_tells_the_layout_where_one_reading_alone_fits(shape, size, axes):
    layout = plain_layout(shape, size)
    assert (layout and layout.axes) == axes
