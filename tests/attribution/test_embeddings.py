"""Embeddings explained by their similarity to themselves: closed forms, and the reference that every pass holds."""

import pytest
import torch
import torch.nn.functional as F
from tiny_transformer import Transformer
from torch import nn

from lightning_saliency import explain
from lightning_saliency.metrics import measure_faithfulness, measure_head_randomization

N, D, WIDTH, SIZE = 3, 5, 6, 12
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(N, 3, SIZE, SIZE, generator=GENERATOR, dtype=torch.float64)

NORMALIZATIONS = {
    "normalize": F.normalize,
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "vector_norm": lambda x: x.div(torch.linalg.vector_norm(x, dim=-1, keepdim=True)),
    "in place": lambda x: x.div_(x.clone().norm(dim=1, keepdim=True)),
    "of squares": lambda x: x / x.pow(2).sum(1, keepdim=True).pow(0.5).clamp(min=1e-12),
    "by a product": lambda x: x * x.square().sum(1, keepdim=True).rsqrt(),
    "of maps": lambda x: F.normalize(x[:, :, None, None], dim=1).flatten(1),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[1:]),
}


class Linear(nn.Module):
    """f(x) = W·mean(A): global average pooling, then a linear layer, then an end."""

    def __init__(self, end=lambda embeddings: embeddings):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.linear, self.end = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Linear(WIDTH, D), end
        self.double()

    def before(self, images):
        return self.linear(self.conv(images).relu().mean((2, 3)))

    def forward(self, images):
        return self.end(self.before(images))


def maps_of(model):
    """Return A, f(x), and Wᵀf of each image."""
    with torch.no_grad():
        A, f = model.conv(IMAGES).relu(), model.before(IMAGES)
    return A, f, f @ model.linear.weight.detach()


def test_on_a_linear_network_the_weights_of_grad_cam_and_cam_are_those_of_the_embedding():
    model = Linear()
    A, f, weights = maps_of(model)
    found = explain(model, IMAGES, methods=["grad_cam", "cam", "hires_cam"], task="embedding")
    expected = torch.einsum("nd,ndhw->nhw", weights, A)[:, None]
    torch.testing.assert_close(found.attributions["grad_cam"].double(), expected.relu() / SIZE**2, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.attributions["cam"].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.scores, f.square().sum(1))
    assert found.classes is None
    assert found.probabilities is None
    assert found.answers == [None] * N


def test_the_gradient_is_that_of_the_similarity_to_a_fixed_reference():
    model = Linear(nn.Tanh())
    images = IMAGES.clone().requires_grad_()
    f = model(images)
    gradient = torch.autograd.grad((f * f.detach()).sum(), images)[0]
    found = explain(model, IMAGES, methods="saliency", task="embedding")
    torch.testing.assert_close(found.attributions["saliency"].double(), gradient.abs().amax(1, keepdim=True))


def covered_drops(similarity, size=4, stride=4):
    """Return S(x) − S(x covered) at each square, for squares that do not overlap."""
    drops = torch.zeros(N, 1, SIZE, SIZE, dtype=torch.float64)
    for top in range(0, SIZE, stride):
        for left in range(0, SIZE, stride):
            covered = IMAGES.clone()
            covered[:, :, top : top + size, left : left + size] = 0
            drops[:, :, top : top + size, left : left + size] = (similarity(IMAGES) - similarity(covered))[
                :, None, None, None
            ]
    return drops


@pytest.mark.parametrize("end", [nn.Identity(), F.normalize])
def test_occlusion_compares_the_covered_image_with_the_embedding_of_the_whole_one(end):
    model = Linear(end)
    with torch.no_grad():
        reference = model.before(IMAGES)
        expected = covered_drops(lambda images: (model.before(images) * reference).sum(1))
    occlusion = {"occlusion": {"size": 4, "stride": 4}}
    found = explain(model, IMAGES, methods=occlusion, task="embedding")
    torch.testing.assert_close(found.attributions["occlusion"].double(), expected, rtol=1e-5, atol=1e-7)
    # the result does not depend on how many images go through the model together
    alone = explain(model, IMAGES, methods=occlusion, task="embedding", chunk_size=1)
    torch.testing.assert_close(alone.attributions["occlusion"], found.attributions["occlusion"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("end", [nn.Identity(), F.normalize])
def test_integrated_gradients_sum_to_the_rise_of_the_similarity_to_the_same_reference(end):
    model = Linear(end)
    with torch.no_grad():
        reference = model.before(IMAGES)
        rise = ((reference - model.before(torch.zeros_like(IMAGES))) * reference).sum(1)
    options = {"integrated_gradients": {"steps": 200}}
    found = explain(model, IMAGES, methods=options, task="embedding")
    total = found.attributions["integrated_gradients"].double().sum((1, 2, 3))
    torch.testing.assert_close(total, rise, rtol=1e-3, atol=1e-6)


def test_smooth_grad_and_score_cam_hold_the_reference_of_the_original_image():
    model = Linear()
    A, f, weights = maps_of(model)
    noisy = explain(model, IMAGES, methods={"smooth_grad": {"noise": 0.0}}, task="embedding").attributions
    plain = explain(model, IMAGES, methods="saliency", task="embedding").attributions
    torch.testing.assert_close(noisy["smooth_grad"], plain["saliency"])
    ablated = explain(model, IMAGES, methods="ablation_cam", task="embedding").attributions["ablation_cam"].double()
    drops = weights * A.mean((2, 3)) / f.square().sum(1, keepdim=True)  # of S = <W·mean(A) + b, f>, per channel
    expected = torch.einsum("nd,ndhw->nhw", drops, A)[:, None].relu()
    torch.testing.assert_close(ablated, expected, rtol=1e-5, atol=1e-7)


def test_a_mirrored_image_is_compared_with_the_embedding_of_the_image_itself():
    model = Linear()
    A, _, weights = maps_of(model)
    with torch.no_grad():
        mirrored = model.conv(IMAGES.flip(-1)).relu()
    found = explain(model, IMAGES, methods="grad_cam", task="embedding", flip=True).attributions["grad_cam"].double()
    expected = sum(torch.einsum("nd,ndhw->nhw", weights, maps)[:, None].relu() for maps in (A, mirrored.flip(-1))) / (
        2 * SIZE**2
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_of_a_normalized_embedding_what_goes_into_the_normalization_is_explained(name):
    plain = explain(Linear(), IMAGES, methods=["grad_cam", "saliency"], task="embedding")
    model = Linear(NORMALIZATIONS[name])
    found = explain(model, IMAGES, methods=["grad_cam", "saliency"], task="embedding")
    for method, maps in plain.attributions.items():
        assert maps.amax() > 1e-6
        torch.testing.assert_close(found.attributions[method], maps, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.logits, model(IMAGES).detach())  # the embedding itself is the model's own


def test_of_a_class_token_after_layer_norm_the_token_before_it_is_explained():
    class Tokens(Linear):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(D).double()
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.uniform_(self.norm.bias)

        def forward(self, images):
            found = self.before(images)
            return self.norm(torch.stack([found, 2 * found.flip(1)], 1))[:, 0]

    model = Tokens()
    images = IMAGES.clone().requires_grad_()
    before = model.before(images)
    centered = (before - before.mean(1, keepdim=True)) * model.norm.weight
    gradient = torch.autograd.grad((centered * centered.detach()).sum(), images)[0]
    found = explain(model, IMAGES, methods="saliency", task="embedding").attributions["saliency"].double()
    torch.testing.assert_close(found, gradient.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_embeddings_of_a_fixed_length_that_cannot_be_seen_through_are_said_in_words(scale):
    model = Linear(lambda x: scale * F.normalize(x).flip(1))
    with pytest.raises(ValueError, match=r"of a fixed length.*no gradient.*`output_fn`.*target=lambda embeddings"):
        explain(model, IMAGES, methods="grad_cam", task="embedding")
    found = explain(model, IMAGES, methods="grad_cam", task="embedding", target=lambda embeddings: embeddings[:, 0])
    torch.testing.assert_close(found.scores, model(IMAGES)[:, 0].detach())


def test_a_norm_that_is_not_the_last_step_does_not_matter():
    model = Linear(lambda x: F.normalize(x) @ torch.eye(D, dtype=x.dtype).mul(torch.arange(1, D + 1)))
    images = IMAGES.clone().requires_grad_()
    f = model(images)
    gradient = torch.autograd.grad((f * f.detach()).sum(), images)[0]
    found = explain(model, IMAGES, methods="saliency", task="embedding").attributions["saliency"].double()
    torch.testing.assert_close(found, gradient.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("target", [1, [0, 1, 2], torch.tensor([0, 0, 0])])
def test_an_embedding_has_no_class_that_could_be_explained(target):
    with pytest.raises(ValueError, match="`target` to be no class for the model's embeddings"):
        explain(Linear(), IMAGES, methods="grad_cam", task="embedding", target=target)


def test_what_measures_a_probability_is_refused_and_a_random_head_is_compared_with_itself():
    model = Linear()
    found = explain(model, IMAGES, methods="saliency", task="embedding")
    with pytest.raises(ValueError, match=r"of classes, which have a probability, got one of .* embeddings"):
        measure_faithfulness(model, found)
    assert measure_head_randomization(model, found)["saliency"].abs().le(1).all()


class Centered(nn.Module):
    """A layer norm without the division."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight

    def forward(self, x):
        return self.weight * (x - x.mean(-1, keepdim=True))


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("method", ["attention_relevance", "attention_rollout", "summed_hires_cam", "grad_cam", "lrp"])
def test_the_norm_that_a_transformer_ends_in_is_seen_through_by_the_methods_that_read_its_tokens(method, pool):
    torch.manual_seed(0)
    model = Transformer(pool).eval()
    model.head = nn.Identity()
    images = IMAGES.float()
    found = explain(model, images, methods=method, task="embedding").heatmaps()[method]
    if pool == "class":  # the embedding is the norm's result
        model.norm = Centered(model.norm)
        without = explain(model, images, methods=method, task="embedding").heatmaps()[method]
        torch.testing.assert_close(found, without, rtol=1e-4, atol=1e-5)
    assert found.flatten(1).any(1).all()


def test_a_pooled_map_that_is_the_embedding_is_read():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = nn.Sequential(*model, nn.Flatten()).double()
    found = explain(model, IMAGES, methods="hires_cam", task="embedding")
    A = model[:4](IMAGES).detach()
    expected = torch.einsum("nd,ndhw->nhw", A.mean((2, 3)), A)[:, None] / A[0, 0].numel()
    assert found.layer == "3"  # with classes it would be a map of their scores, and the one before it were read
    torch.testing.assert_close(found.attributions["hires_cam"].double(), expected, rtol=1e-5, atol=1e-8)
