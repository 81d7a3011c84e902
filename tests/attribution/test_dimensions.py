"""Images, volumes and signals: the same methods, with as many spatial axes as there are."""

from itertools import product

import pytest
import torch
import torchvision
from networks import CNN_METHODS
from raised import raised
from states import assert_all_alike
from torch import nn

from lightning_saliency import explain
from lightning_saliency.attribution import to_heatmaps
from lightning_saliency.models import GAPHead

pytestmark = pytest.mark.filterwarnings("ignore:The integrated gradients")

LABELS = [2, 0, 1]
GENERATOR = torch.Generator().manual_seed(1)
SIGNALS = torch.randn(3, 2, 24, generator=GENERATOR, dtype=torch.float64)
IMAGES = torch.randn(3, 2, 10, 8, generator=GENERATOR, dtype=torch.float64)
VOLUMES = torch.randn(3, 2, 6, 8, 10, generator=GENERATOR, dtype=torch.float64)

METHODS = dict.fromkeys(CNN_METHODS) | {
    "smooth_grad": {"num_samples": 3},
    "smooth_grad_cam_plus_plus": {"num_samples": 3},
    "grad_cam": {"principal": True},
    "occlusion": {"size": 1},
    "integrated_gradients": {"steps": 8},
}


def net(*layers, head=None):
    return nn.Sequential(*layers, head or GAPHead(5, 3)).double().eval()


def net_of_signals():
    torch.manual_seed(0)
    return net(
        nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 5, 3), nn.ReLU()
    )


def net_of_images():
    torch.manual_seed(0)
    return net(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, (2, 3)), nn.ReLU()
    )


def net_of_volumes():
    torch.manual_seed(0)
    return net(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 5, (2, 3, 2)), nn.ReLU())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("make", "inputs"), [(net_of_signals, SIGNALS), (net_of_images, IMAGES)])
def test_one_axis_more_of_size_1_changes_no_map_of_any_method(make, inputs, flip):
    options = {"methods": METHODS, "target": LABELS, "flip": flip}
    flat, high = explain(make(), inputs, **options), explain(raised(make()), inputs.unsqueeze(2), **options)
    assert flat.layer == high.layer == str(len(make()) - 2)
    assert_all_alike({key: maps.squeeze(2) for key, maps in high.attributions.items()}, flat.attributions)
    assert_all_alike({key: maps.squeeze(2) for key, maps in high.signed.items()}, flat.signed)
    assert_all_alike({key: maps.squeeze(2) for key, maps in high.heatmaps().items()}, flat.heatmaps())
    assert_all_alike(high.notes, flat.notes)
    torch.testing.assert_close(high.class_maps().squeeze(2), flat.class_maps())


def positions(*sizes):
    return list(product(*map(range, sizes)))


@pytest.mark.parametrize(("make", "inputs"), [(net_of_signals, SIGNALS), (net_of_volumes, VOLUMES)])
def test_grad_cam_of_signals_and_volumes_is_the_sum_written_out(make, inputs):
    model, found = make(), explain(make(), inputs, methods=["grad_cam", "cam", "saliency"], target=LABELS)
    for row, label in enumerate(LABELS):
        A = model[:-1](inputs[row : row + 1]).detach().requires_grad_()
        g = torch.autograd.grad(model[-1](A)[0, label], A)[0][0]
        A, weights = A.detach(), model[-1].linear.weight.detach()
        expected, class_map = torch.zeros(A.shape[2:]), torch.zeros(A.shape[2:])
        for at in positions(*A.shape[2:]):
            for k in range(5):
                alpha = sum(float(g[(k, *other)]) for other in positions(*A.shape[2:])) / A[0, 0].numel()
                expected[at] += alpha * float(A[(0, k, *at)])
                class_map[at] += float(weights[label, k] * A[(0, k, *at)])
        torch.testing.assert_close(found.attributions["grad_cam"][row, 0], expected.relu())
        torch.testing.assert_close(found.attributions["cam"][row, 0], class_map)
        leaf = inputs[row : row + 1].clone().requires_grad_()
        gradient = torch.autograd.grad(model(leaf)[0, label], leaf)[0][0]
        torch.testing.assert_close(found.attributions["saliency"][row, 0].double(), gradient.abs().amax(0))


@pytest.mark.parametrize(
    ("make", "inputs", "options", "sizes", "strides"),
    [
        (net_of_signals, SIGNALS, {"size": 5, "stride": 3}, (5,), (3,)),
        (net_of_signals, SIGNALS, {}, (3,), (1,)),
        (net_of_volumes, VOLUMES, {"size": 4, "stride": 3}, (4, 4, 4), (3, 3, 3)),
        (net_of_volumes, VOLUMES, {"size": 7}, (6, 7, 7), (3, 3, 3)),  # at most the depth
        # an eighth of the depth, and of the slices' shorter side
        (net_of_volumes, torch.randn(1, 2, 33, 8, 10, dtype=torch.float64), {}, (4, 1, 1), (2, 1, 1)),
    ],
)
def test_occlusion_covers_a_window_with_as_many_axes_as_the_input(make, inputs, options, sizes, strides):
    model = make()
    found = explain(model, inputs[:1], methods={"occlusion": {"fill": 0.5} | options}, target=2)
    lengths = inputs.shape[2:]
    starts = [
        sorted({*range(0, length - size + 1, stride), length - size})
        for length, size, stride in zip(lengths, sizes, strides, strict=True)
    ]
    total, count = torch.zeros(lengths, dtype=torch.float64), torch.zeros(lengths)
    with torch.no_grad():
        for corner in product(*starts):
            window = tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))
            covered = inputs[:1].clone()
            covered[(slice(None), slice(None), *window)] = 0.5
            total[window] += float(model(inputs[:1])[0, 2] - model(covered)[0, 2])
            count[window] += 1
    torch.testing.assert_close(found.attributions["occlusion"][0, 0].double(), total / count, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("size", [(9,), (4, 9), (5, 4, 9)])
def test_a_heatmap_is_interpolated_along_each_axis_on_its_own(size):
    lines = [torch.rand(length, generator=torch.Generator().manual_seed(length)) for length in (3, 2, 4)[-len(size) :]]
    raw = lines[0]
    for line in lines[1:]:
        raw = raw[..., None] * line
    found = to_heatmaps(raw[None, None], size)[0, 0]
    expected = torch.ones(())
    for line, length in zip(lines, size, strict=True):
        place = ((torch.arange(length) + 0.5) * len(line) / length - 0.5).clamp(0, len(line) - 1)
        low = place.long().clamp(max=len(line) - 2)
        expected = expected[..., None] * torch.lerp(line[low], line[low + 1], place - low)
    torch.testing.assert_close(found, expected / expected.max())


def test_a_tensor_of_three_axes_is_one_image_where_the_model_takes_it_and_else_signals():
    image = explain(net_of_images(), IMAGES[0])
    assert image.attributions["grad_cam"].shape == (1, 1, 4, 2)
    signals = explain(net_of_signals(), SIGNALS)
    assert signals.attributions["grad_cam"].shape == (3, 1, 10)
    called = explain(net_of_signals(), ((SIGNALS,), {}))
    assert_all_alike(called.attributions, signals.attributions)
    with pytest.raises(RuntimeError, match="conv1d"):
        explain(net_of_signals(), SIGNALS.repeat(1, 3, 1))


def test_signals_and_videos_are_explained_channels_last_and_frames_first_too():
    class Turned(nn.Module):
        def __init__(self, net, axis):
            super().__init__()
            self.net, self.axis = net, axis

        def forward(self, inputs):
            return self.net(inputs.movedim(self.axis, 1))

    videos = torch.randn(2, 3, 6, 8, 10, dtype=torch.float64)
    torch.manual_seed(0)
    of_videos = net(nn.Conv3d(3, 5, 3), nn.ReLU())
    for model, inputs, axis in (
        (net_of_signals(), SIGNALS, 2), (of_videos, videos, 2), (of_videos, videos, 4),
    ):  # fmt: skip
        expected = explain(model, inputs, methods=["grad_cam", "saliency", "occlusion"])
        call = ((inputs.movedim(1, axis),), {})
        found = explain(Turned(model, axis), call, methods=["grad_cam", "saliency", "occlusion"])
        assert torch.equal(found.images, inputs)
        assert_all_alike(found.attributions, expected.attributions)


@pytest.mark.parametrize("size", [(2, 3), (1, 7), (1, 1), (30, 2)])
@pytest.mark.parametrize("pool", [False, True])
def test_very_small_images_are_explained_by_every_method_or_left_blank(size, pool):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 5, 3, padding=1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 5, 1), nn.ReLU()] if pool else []
    images = torch.randn(2, 1, *size, dtype=torch.float64)
    found = explain(net(*layers), images, methods=METHODS, layer="4" if pool else "1")
    for maps in found.heatmaps().values():
        assert maps.shape == (2, 1, *size)
        assert maps.isfinite().all()


def test_grad_cam_of_a_video_network_of_torchvision_is_that_of_its_last_map():
    torch.manual_seed(0)
    model = torchvision.models.video.r3d_18(num_classes=5).eval()
    videos = torch.randn(2, 3, 8, 48, 32)
    found = explain(model, videos, methods=["grad_cam", "saliency"], target=1)
    assert found.layer == "layer4"
    maps = []
    model.layer4.register_forward_hook(lambda module, args, output: maps.append(output))
    gradient = torch.autograd.grad(model(videos)[:, 1].sum(), maps[0])[0]
    expected = (gradient.mean((2, 3, 4), keepdim=True) * maps[0]).sum(1, keepdim=True).relu()
    assert expected.shape == (2, 1, 1, 3, 2)
    torch.testing.assert_close(found.attributions["grad_cam"], expected.detach(), rtol=1e-3, atol=1e-6)
    assert found.heatmaps()["grad_cam"].shape == (2, 1, 8, 48, 32)
