"""What a loss does with a network's outputs is read from its graph, for losses as people write them."""

import math
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

from lightning_saliency.evidence import LossTerm, read_loss

N, D, K = 6, 8, 5
"""The samples, features and classes."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images():
    return torch.randn(N, 3, 8, 8)


def backbone():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, D), nn.ReLU(),
    )  # fmt: skip


def network(num=K):
    return nn.Sequential(backbone(), nn.Linear(D, num))


def embed():
    return network(D)


def scores(num=K):
    return network(num)(images())


def maps(num=K):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, num, 1))(images())


def classes(*shape, num=K):
    return torch.randint(num, shape or (N,))


def some_of_each(*shape):
    return torch.rand(shape or (N, K)).round()


def uses(loss):
    """The use of each shape without the batch axis: a dict from shapes to uses."""
    terms = read_loss(loss)
    assert len({term.shape for term in terms}) == len(terms)
    return {term.shape[1:]: term.use for term in terms}


def ignored():
    return torch.tensor([0, -1, 2, 255, 4, 1])


def softmax_focal():
    log_probabilities = F.log_softmax(scores(), dim=-1)
    own = log_probabilities.gather(1, classes()[:, None])[:, 0]
    return (-((1 - own.exp()) ** 2) * own).mean()


def focal_of_cross_entropy():
    entropies = F.cross_entropy(scores(), classes(), reduction="none")
    return ((1 - torch.exp(-entropies)) ** 2 * entropies).mean()


def smoothed_by_hand():
    log_probabilities = scores().log_softmax(dim=-1)
    nll = -log_probabilities.gather(dim=-1, index=classes().unsqueeze(1)).squeeze(1)
    return (0.9 * nll - 0.1 * log_probabilities.mean(dim=-1)).mean()


def mixup():
    output = scores()
    return 0.3 * F.cross_entropy(output, classes()) + 0.7 * F.cross_entropy(output, classes())


def softmax_dice():
    probabilities, truth = maps().softmax(1), F.one_hot(classes(N, 6, 6), K).permute(0, 3, 1, 2)
    shared = (probabilities * truth).sum((0, 2, 3))
    return 1 - ((2 * shared + 1) / (probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1)).mean()


def distillation():
    student, teacher = scores(), scores().detach()
    soft = F.kl_div(F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean")
    return 0.5 * 16 * soft + 0.5 * F.cross_entropy(student, classes())


def connectionist():
    sequences = nn.Linear(D, K)(torch.randn(10, N, D)).log_softmax(2)
    return F.ctc_loss(sequences, torch.randint(1, K, (N, 3)), torch.full((N,), 10), torch.full((N,), 3))


def arcface(margin=0.5, scale=30.0):
    embeddings, weight = embed()(images()), nn.Parameter(torch.randn(K, D))
    cosine = F.linear(F.normalize(embeddings), F.normalize(weight))
    sine = torch.sqrt((1.0 - cosine**2).clamp(0, 1))
    with_margin = cosine * math.cos(margin) - sine * math.sin(margin)
    truth = F.one_hot(classes(), K)
    return F.cross_entropy(scale * torch.where(truth.bool(), with_margin, cosine), classes())


def cosine_classifier():
    features = F.normalize(embed()(images()), dim=-1)
    prototypes = F.normalize(nn.Linear(D, K, bias=False).weight, dim=-1)
    return F.cross_entropy(features @ prototypes.t() / 0.05, classes())


def cosine_classifier_by_einsum():
    weight = nn.Parameter(torch.randn(K, D))
    return F.cross_entropy(torch.einsum("nd,kd->nk", F.normalize(embed()(images())), F.normalize(weight)), classes())


def learned_centers():
    return F.cross_entropy(-torch.cdist(embed()(images()), nn.Parameter(torch.randn(K, D))), classes())


def low_rank_adapter():
    head, down, up = nn.Linear(D, K, bias=False), nn.Parameter(torch.randn(2, D)), nn.Parameter(torch.randn(K, 2))
    return F.cross_entropy(F.linear(backbone()(images()), head.weight.detach() + 0.5 * (up @ down)), classes())


def spectrally_normalized():
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(D, K, bias=False))
    return F.cross_entropy(head(backbone()(images())), classes())


def averaged_over_positions():
    return F.cross_entropy(maps().relu().mean((2, 3)), classes())  # as in SqueezeNet


def resized():
    return F.cross_entropy(F.interpolate(maps(), size=12, mode="bilinear"), classes(N, 12, 12))


def resized_signal():
    output = nn.Conv1d(3, K, 3)(torch.randn(N, 3, 10))
    return F.cross_entropy(F.interpolate(output, size=20, mode="linear"), classes(N, 20))


def masked_tokens():
    return F.cross_entropy(nn.Linear(D, K)(torch.randn(N, 7, D)).view(-1, K), classes(N * 7), ignore_index=-100)


def of_instances():
    """The mean of the instances' scores, weighted by attention (multiple instance learning)."""
    instances = nn.Linear(3, D)(torch.randn(N, 7, 3)).tanh()
    attention = nn.Linear(D, 1)(instances).softmax(1)
    return F.cross_entropy((attention * nn.Linear(D, K)(instances)).sum(1), classes())


def in_patches():
    output = nn.Linear(D, K)(torch.randn(N, 7, D))
    return F.cross_entropy(output.max(1).values, classes())


def gated():
    hidden = backbone()(images())
    gate = nn.Linear(D, 1)(hidden).sigmoid()
    return F.cross_entropy(gate * nn.Linear(D, K)(hidden), classes())


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda: F.cross_entropy(scores(), classes()), (K,)),
        (lambda: nn.CrossEntropyLoss(torch.rand(K), label_smoothing=0.1)(scores(), classes()), (K,)),
        (lambda: F.cross_entropy(scores(), torch.rand(N, K).softmax(1)), (K,)),
        (lambda: F.cross_entropy(scores().masked_fill(ignored()[:, None] < 0, 0), ignored() % K, ignore_index=0), (K,)),
        (lambda: F.cross_entropy(maps(), classes(N, 6, 6), ignore_index=2), (K, 6, 6)),
        (lambda: F.nll_loss(F.log_softmax(scores(), 1), classes()), (K,)),
        (lambda: F.nll_loss(torch.log(scores().softmax(1) + 1e-8), classes()), (K,)),
        (lambda: -torch.distributions.Categorical(logits=scores()).log_prob(classes()).mean(), (K,)),
        (lambda: (scores().softmax(1) - some_of_each()).pow(2).mean(), (K,)),
        (smoothed_by_hand, (K,)),
        (mixup, (K,)),
        (softmax_focal, (K,)),
        (focal_of_cross_entropy, (K,)),
        (softmax_dice, (K, 6, 6)),
        (distillation, (K,)),
        (connectionist, (N, K)),
        (arcface, (K,)),
        (cosine_classifier, (K,)),
        (cosine_classifier_by_einsum, (K,)),
        (learned_centers, (K,)),
        (low_rank_adapter, (K,)),
        (spectrally_normalized, (K,)),
        (averaged_over_positions, (K, 6, 6)),
        (resized, (K, 6, 6)),
        (resized_signal, (K, 8)),
        (masked_tokens, (7, K)),
        (in_patches, (7, K)),
    ],
)
def test_a_softmax_is_of_classes_of_which_one_is_true(loss, shape):
    assert uses(loss()) == {shape: "softmax"}


def test_scores_that_are_weighted_are_scores_and_the_weights_are_not():
    assert uses(of_instances()) == {(7, 1): "unknown", (7, K): "softmax"}
    assert uses(gated()) == {(1,): "unknown", (K,): "softmax"}


def dice():
    probabilities, truth = maps(1).sigmoid(), some_of_each(N, 1, 6, 6)
    shared = (probabilities * truth).sum((1, 2, 3))
    return (1 - 2 * shared / (probabilities.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1e-6)).mean()


def cross_entropy_and_dice():
    logits, truth = maps(1), some_of_each(N, 1, 6, 6)
    shared = (logits.sigmoid() * truth).sum()
    return F.binary_cross_entropy_with_logits(logits, truth) + 1 - 2 * shared / (logits.sigmoid() + truth).sum()


def asymmetric():
    """The asymmetric loss of Ridnik et al. (2021), as published."""
    positive, truth = torch.sigmoid(scores()), some_of_each()
    negative = (1 - positive + 0.05).clamp(max=1)
    loss = truth * torch.log(positive.clamp(min=1e-8)) + (1 - truth) * torch.log(negative.clamp(min=1e-8))
    weight = torch.pow(1 - (positive * truth + negative * (1 - truth)), 1 * truth + 4 * (1 - truth))
    return -(loss * weight).sum()


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda: F.binary_cross_entropy_with_logits(scores(), some_of_each()), (K,)),
        (lambda: F.binary_cross_entropy_with_logits(scores(1).squeeze(1), some_of_each(N)), (1,)),
        (lambda: nn.BCEWithLogitsLoss(pos_weight=torch.rand(K))(scores(), some_of_each()), (K,)),
        (lambda: F.binary_cross_entropy(scores(1).sigmoid()[:, 0], some_of_each(N)), (1,)),
        (lambda: F.multilabel_soft_margin_loss(scores(), some_of_each()), (K,)),
        (lambda: F.soft_margin_loss(scores(1)[:, 0], 2 * some_of_each(N) - 1), (1,)),
        (lambda: F.softplus(-(2 * some_of_each(N) - 1) * scores(1).flatten()).mean(), (1,)),
        (lambda: -(some_of_each(N) * F.logsigmoid(scores(1)[:, 0])).mean(), (1,)),
        (lambda: sigmoid_focal_loss(scores(), some_of_each(), reduction="mean"), (K,)),
        (lambda: sigmoid_focal_loss(scores(), some_of_each(), reduction="sum") / N, (K,)),
        (asymmetric, (K,)),
        (dice, (1, 6, 6)),
        (cross_entropy_and_dice, (1, 6, 6)),
        (lambda: F.mse_loss(maps(3).sigmoid(), torch.rand(N, 3, 6, 6)), (3, 6, 6)),
    ],
)
def test_a_sigmoid_is_of_classes_each_of_which_may_be_true(loss, shape):
    assert uses(loss()) == {shape: "sigmoid"}


def charbonnier():
    return torch.sqrt((maps(3) - torch.rand(N, 3, 6, 6)) ** 2 + 1e-6).mean()


def heteroscedastic():
    """The mean and the logarithm of the variance from one layer (Kendall & Gal 2017)."""
    mean, log_variance = scores(2).chunk(2, dim=1)
    return (torch.exp(-log_variance) * (torch.rand(N, 1) - mean) ** 2 + log_variance).sum(1).mean()


def autoencoder():
    codes = embed()(images())
    decoded = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 3 * 8 * 8))(codes)
    return F.mse_loss(decoded.view(N, 3, 8, 8), images())


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda: F.mse_loss(scores(1).squeeze(-1), torch.rand(N)), (1,)),
        (lambda: F.mse_loss(torch.rand(N, 2), scores(2)), (2,)),
        (lambda: F.l1_loss(scores(2), torch.rand(N, 2)), (2,)),
        (lambda: F.smooth_l1_loss(scores(2), torch.rand(N, 2)), (2,)),
        (lambda: F.huber_loss(scores(2), torch.rand(N, 2)), (2,)),
        (lambda: F.mse_loss(scores(1), torch.rand(N, 1)).sqrt(), (1,)),
        (lambda: F.mse_loss(F.softplus(scores(1)), torch.rand(N, 1)), (1,)),
        (lambda: (F.softplus(scores(1)) - torch.rand(N, 1)).abs().mean(), (1,)),
        (lambda: ((scores(1)[:, 0] - torch.rand(N)) ** 2).mean(), (1,)),
        (lambda: torch.mean(torch.abs((torch.rand(N, 1) - scores(1)) / torch.rand(N, 1))), (1,)),
        (lambda: torch.log(torch.cosh(scores(1) - torch.rand(N, 1))).mean(), (1,)),
        (lambda: (scores(6).view(N, 3, 2) - torch.rand(N, 3, 2)).norm(dim=-1).mean(), (6,)),
        (lambda: (torch.rand(N, 1, 6, 6).round() * (maps(1) - torch.rand(N, 1, 6, 6))).pow(2).mean(), (1, 6, 6)),
        (charbonnier, (3, 6, 6)),
        (heteroscedastic, (2,)),
        (autoencoder, (192,)),
    ],
)
def test_values_that_are_compared_with_others_are_a_distance(loss, shape):
    assert uses(loss()) == {shape: "distance"}


@pytest.mark.parametrize("positive", [torch.exp, F.softplus], ids=["exp", "softplus"])
def test_a_variance_is_no_class(positive):
    hidden, truth = backbone()(images()), torch.rand(N, 1)
    mean, variance = nn.Linear(D, 1)(hidden), positive(nn.Linear(D, 2)(hidden)).mean(1, keepdim=True) + 1e-6
    assert uses(F.gaussian_nll_loss(mean, truth, variance)) == {(1,): "distance", (2,): "unknown"}
    likelihood = torch.distributions.Normal(mean, variance).log_prob(truth)
    assert uses(-likelihood.mean()) == {(1,): "distance", (2,): "unknown"}


def nt_xent(embeddings, others, temperature=0.5):
    """The loss of SimCLR, as in most public implementations."""
    every = F.normalize(torch.cat([embeddings, others]), dim=1)
    similarities = every @ every.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * N, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(similarities, torch.arange(2 * N).roll(N))


def nt_xent_by_exponentials(embeddings, others, temperature=0.5):
    every = F.normalize(torch.cat([embeddings, others]), dim=1)
    exponentials = torch.exp(torch.mm(every, every.t()) / temperature)
    negatives = exponentials.masked_select(~torch.eye(2 * N, dtype=torch.bool)).view(2 * N, -1).sum(-1)
    positives = torch.exp((F.normalize(embeddings) * F.normalize(others)).sum(-1) / temperature)
    return -torch.log(torch.cat([positives, positives]) / negatives).mean()


def info_nce_by_cosine_similarity(embeddings, others):
    similarities = F.cosine_similarity(embeddings[:, None], others[None], dim=-1)
    return F.cross_entropy(similarities / 0.07, torch.arange(N))


def supervised_contrastive(embeddings, others):
    """The loss of Khosla et al. (2020), as published."""
    features, labels = F.normalize(torch.cat([embeddings, others]), dim=1), classes(N).repeat(2)
    others_mask = 1 - torch.eye(2 * N)
    same = (labels[:, None] == labels[None]).float() * others_mask
    logits = features @ features.T / 0.07
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    log_probabilities = logits - torch.log((torch.exp(logits) * others_mask).sum(1, keepdim=True))
    return -((same * log_probabilities).sum(1) / same.sum(1).clamp(min=1)).mean()


def prototypes_of(embeddings, others):
    return torch.stack([others[:3].mean(0), others[3:].mean(0)])


def prototypical_by_cdist(embeddings, others):
    return F.cross_entropy(-(torch.cdist(embeddings, prototypes_of(embeddings, others)) ** 2), classes(num=2))


def prototypical_by_broadcasting(embeddings, others):
    differences = embeddings.unsqueeze(1) - prototypes_of(embeddings, others).unsqueeze(0)
    return F.nll_loss(F.log_softmax(-(differences**2).sum(2), dim=1), classes(num=2))


def fixed_prototypes(embeddings, others):
    centers = torch.randn(K, D)
    return F.cross_entropy(-(embeddings[:, None] - centers).pow(2).sum(-1), classes()) + prototypical_by_cdist(
        embeddings, others
    )


def contrastive_by_squares(embeddings, others):
    distances, same = ((embeddings - others) ** 2).sum(1), some_of_each(N)
    return (same * distances + (1 - same) * (1 - distances).clamp(min=0) ** 2).mean()


def contrastive(embeddings, others):
    """The loss of Hadsell et al. (2006)."""
    distances, same = F.pairwise_distance(embeddings, others), some_of_each(N)
    return (same * distances.pow(2) + (1 - same) * F.relu(1 - distances).pow(2)).mean()


def hard_triplet(embeddings, others):
    distances = torch.cdist(embeddings, others)
    return F.relu(distances.max(1).values - distances.min(1).values + 0.3).mean()


def simsiam(embeddings, others):
    return -0.5 * (
        F.cosine_similarity(embeddings, others.detach()).mean()
        + F.cosine_similarity(others, embeddings.detach()).mean()
    )


def byol(embeddings, others):
    return sum(
        (2 - 2 * (F.normalize(online, dim=-1) * F.normalize(target.detach(), dim=-1)).sum(-1)).mean()
        for online, target in ((embeddings, others), (others, embeddings))
    )


def byol_by_squares(embeddings, others):
    return F.mse_loss(F.normalize(embeddings), F.normalize(others.detach())) + F.mse_loss(
        F.normalize(others), F.normalize(embeddings.detach())
    )


def barlow_twins(embeddings, others):
    first, second = ((each - each.mean(0)) / each.std(0) for each in (embeddings, others))
    correlation = first.T @ second / N
    diagonal = torch.diagonal(correlation)
    off_diagonal = correlation.flatten()[:-1].view(D - 1, D + 1)[:, 1:].flatten()
    return (diagonal - 1).pow(2).sum() + 5e-3 * off_diagonal.pow(2).sum()


def vicreg(embeddings, others):
    loss = 25 * F.mse_loss(embeddings, others)
    for each in (embeddings, others):
        centered = each - each.mean(0)
        covariance = centered.T @ centered / (N - 1)
        off_diagonal = covariance.flatten()[:-1].view(D - 1, D + 1)[:, 1:].flatten()
        loss = loss + 25 * F.relu(1 - torch.sqrt(each.var(0) + 1e-4)).mean() + off_diagonal.pow(2).sum() / D
    return loss


def moco(embeddings, others):
    query, key, queue = F.normalize(embeddings), F.normalize(others.detach()), F.normalize(torch.randn(D, 20), dim=0)
    positive = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
    negatives = torch.einsum("nc,ck->nk", query, queue)
    return F.cross_entropy(torch.cat([positive, negatives], 1) / 0.07, torch.zeros(N, dtype=torch.long)) + byol(
        embeddings, others
    )


def siglip(embeddings, others):
    logits = F.normalize(embeddings) @ F.normalize(others).t() * nn.Parameter(torch.tensor(2.0)).exp()
    return -F.logsigmoid((2 * torch.eye(N) - 1) * logits).sum() / N


def two_towers(embeddings, others):
    return F.binary_cross_entropy_with_logits((embeddings * others).sum(-1), some_of_each(N))


def rated(embeddings, others):
    return F.mse_loss((embeddings * others).sum(-1), torch.rand(N))


def centers_of_classes(embeddings, others):
    return (embeddings - nn.Parameter(torch.randn(K, D))[classes()]).pow(2).sum() + contrastive(embeddings, others)


@pytest.mark.parametrize(
    "loss",
    [
        nt_xent,
        nt_xent_by_exponentials,
        info_nce_by_cosine_similarity,
        supervised_contrastive,
        prototypical_by_cdist,
        prototypical_by_broadcasting,
        fixed_prototypes,
        lambda embeddings, others: F.triplet_margin_loss(embeddings, others, others.flip(0)),
        lambda embeddings, others: F.cosine_embedding_loss(embeddings, others, 2 * some_of_each(N) - 1),
        contrastive,
        contrastive_by_squares,
        hard_triplet,
        simsiam,
        byol,
        byol_by_squares,
        barlow_twins,
        vicreg,
        moco,
        siglip,
        two_towers,
        rated,
        centers_of_classes,
    ],
)
def test_embeddings_that_are_compared_are_a_similarity_also_where_a_softmax_follows(loss):
    network = embed()
    both = network(torch.cat([images(), images()]))
    for embeddings, others in ((network(images()), network(images())), (embed()(images()), embed()(images()))):
        assert uses(loss(embeddings, others)) == {(D,): "similarity"}
    assert read_loss(loss(*both.chunk(2))) == (LossTerm((2 * N, D), "similarity"),)


def test_the_cross_entropy_between_two_networks_is_a_softmax_as_with_soft_labels():
    student, teacher = scores(64), scores(64).detach()
    loss = -(F.softmax(teacher / 0.04, dim=-1) * F.log_softmax(student / 0.1, dim=-1)).sum(-1).mean()
    assert uses(loss) == {(64,): "softmax"}


def test_each_head_has_a_term_and_the_strongest_come_first():
    hidden = backbone()(images())
    color, size, tags = nn.Linear(D, 4)(hidden), nn.Linear(D, 1)(hidden), nn.Linear(D, 3)(hidden)
    loss = F.mse_loss(size[:, 0], torch.rand(N)) + F.cross_entropy(color, classes(num=4))
    loss = loss + 0.1 * F.binary_cross_entropy_with_logits(tags, some_of_each(N, 3))
    assert read_loss(loss) == (
        LossTerm((N, 4), "softmax"),
        LossTerm((N, 3), "sigmoid"),
        LossTerm((N, 1), "distance"),
    )


def test_an_output_that_is_used_in_several_ways_has_the_strongest_use():
    output = scores()
    loss = F.mse_loss(output, torch.rand(N, K)) + F.cross_entropy(output, classes()) + 1e-3 * output.norm()
    assert read_loss(loss) == (LossTerm((N, K), "softmax"),)


def test_several_exits_are_terms_of_their_shapes():
    hidden = torch.randn(N, 3, 16, 16)
    loss = 0
    for stride in (1, 2, 4):
        hidden = nn.Conv2d(3, 3, 3, stride, 1)(hidden).relu()
        exit_scores = nn.Conv2d(3, K, 1)(hidden)
        loss = loss + F.cross_entropy(F.interpolate(exit_scores, size=16), classes(N, 16, 16))
    assert uses(loss) == dict.fromkeys([(K, 16, 16), (K, 8, 8), (K, 2, 2)], "softmax")


def test_a_variational_autoencoder_has_a_reconstruction_and_a_code():
    hidden = backbone()(images())
    mean, log_variance = nn.Linear(D, 2)(hidden), nn.Linear(D, 2)(hidden)
    codes = mean + torch.randn(N, 2) * torch.exp(0.5 * log_variance)
    pixels = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 64))(codes)
    divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    for reconstruction, use in (
        (F.binary_cross_entropy_with_logits(pixels, torch.rand(N, 64)), "sigmoid"),
        (F.mse_loss(pixels, torch.rand(N, 64)), "distance"),
    ):
        terms = read_loss(reconstruction + divergence)
        assert terms[0] == LossTerm((N, 64), use)
        assert {term.shape for term in terms[1:]} == {(N, 2)}
        assert {term.use for term in terms[1:]} == {"similarity", "unknown"}


@pytest.mark.parametrize(
    ("loss", "use"),
    [
        (lambda real, fake: F.binary_cross_entropy_with_logits(real, torch.ones(N, 1)), "sigmoid"),
        (lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(), "sigmoid"),
        (lambda real, fake: F.mse_loss(real, torch.ones(N, 1)) + F.mse_loss(fake, torch.zeros(N, 1)), "distance"),
        (lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(), "unknown"),
        (lambda real, fake: fake.mean() - real.mean(), "unknown"),
    ],
    ids=["logits", "softplus", "least squares", "hinge", "wasserstein"],
)
def test_of_adversarial_losses_the_critics_output_is_the_term(loss, use):
    critic, generator = network(1), nn.Linear(4, 3 * 64)
    fake = critic(generator(torch.randn(N, 4)).view(N, 3, 8, 8))
    assert read_loss(loss(critic(images()), fake)) == (LossTerm((N, 1), use),)


def test_a_gradient_penalty_adds_no_term_of_a_layer_inside():
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(4 * 36, 1))
    mixed = images().requires_grad_()
    gradient = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
    loss = -critic(images()).mean() + 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    assert read_loss(loss) == (LossTerm((N, 1), "unknown"),)


def test_margins_between_scores_tell_nothing():
    assert uses(F.multi_margin_loss(scores(), classes())) == {(K,): "unknown"}


def test_penalties_of_weights_are_no_terms():
    head = nn.Linear(D, K)
    penalty = sum(parameter.pow(2).sum() for parameter in head.parameters())
    orthogonality = (head.weight @ head.weight.T - torch.eye(K)).pow(2).sum()
    loss = F.cross_entropy(head(backbone()(images())), classes()) + 1e-3 * penalty + orthogonality
    assert read_loss(loss) == (LossTerm((N, K), "softmax"),)
    assert read_loss(penalty + orthogonality) == ()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_network_is_not_computed_again(use_reentrant):
    calls, model = [], network()
    model.register_forward_hook(lambda *_: calls.append(1))
    loss = F.cross_entropy(checkpoint(model, images().requires_grad_(), use_reentrant=use_reentrant), classes())
    assert uses(loss) == {(K,): "softmax"}
    assert len(calls) == 1
    loss.backward()


def test_saved_tensors_are_not_unpacked():
    unpacked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: unpacked.append(1) or tensor):
        loss = F.cross_entropy(scores(), classes())
    assert uses(loss) == {(K,): "softmax"}
    assert unpacked == []
    loss.backward()


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, other, factor):
        ctx.factor = factor
        return tensor * factor, other * factor

    @staticmethod
    def backward(ctx, gradient, other):
        return gradient * ctx.factor, other * ctx.factor, None


class SquaredError(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output, truth):
        ctx.save_for_backward(output - truth)
        return (output - truth).pow(2).sum()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0], None


def test_a_function_of_ones_own_hides_its_inside_and_each_result_is_a_term():
    first, second = Scaled.apply(scores(), scores(2), 2.0)
    loss = F.cross_entropy(first, classes()) + F.mse_loss(second, torch.rand(N, 2))
    assert uses(loss) == {(K,): "softmax", (2,): "distance"}
    assert uses(SquaredError.apply(scores(2), torch.rand(N, 2))) == {(2,): "unknown"}  # it is the loss itself


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated")
def test_a_scripted_network_is_a_layer():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, K)))
    for _ in range(3):  # from the second call on it is one node of the graph
        loss = F.cross_entropy(scripted(torch.randn(N, D)), classes())
        assert uses(loss) == {(K,): "softmax"}


def test_a_compiled_network_is_a_layer():
    torch.compiler.reset()
    compiled = torch.compile(network(), backend="aot_eager")
    assert uses(F.cross_entropy(compiled(images()), classes())) == {(K,): "softmax"}
    assert uses(F.cross_entropy(F.interpolate(compiled(images())[:, None], size=K)[:, 0], classes())) == {
        (K,): "softmax"
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_the_precision_does_not_matter(dtype):
    if dtype is torch.bfloat16:
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(scores(), classes())
    else:
        loss = F.cross_entropy(network().to(dtype)(images().to(dtype)).float(), classes())
    assert uses(loss) == {(K,): "softmax"}
    assert uses(loss * 2.0**16 / 4) == {(K,): "softmax"}  # scaled for the gradients, and for accumulating them


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_of_recurrent_layers_are_no_classes(layer):
    terms = read_loss(F.mse_loss(layer(3, D)(torch.randn(7, N, 3))[0], torch.rand(7, N, D)))
    assert {term.use for term in terms} <= {"distance", "unknown"}
    assert terms[0].use == "distance"


def test_output_written_in_place_into_a_larger_tensor_is_followed():
    canvas = torch.zeros(N, 2 * K)
    canvas[:, :K] = scores()
    assert uses(F.cross_entropy(canvas, classes())) == {(K,): "softmax"}


def test_what_the_last_layer_returns_has_other_shapes_on_its_way_to_the_loss():
    shuffled = F.pixel_shuffle(maps(12), 2)
    (term,) = read_loss(F.mse_loss(shuffled, torch.rand(N, 3, 12, 12)))
    assert (term.shape, (N, 3, 12, 12) in term.shapes) == ((N, 12, 6, 6), True)
    (term,) = read_loss(F.binary_cross_entropy_with_logits(scores(1) + nn.Parameter(torch.rand(4)), some_of_each(N, 4)))
    assert term.shapes == ((N, 1), (N, 4))
    (term,) = read_loss(F.cross_entropy(maps().mean((2, 3)), classes()))
    assert all(math.prod(shape) >= math.prod(term.shape) for shape in term.shapes)  # what is pooled is another tensor
    assert LossTerm.from_plain(*term.to_plain()).shapes == term.shapes


RANKS = torch.tensor([0, 3, 1, 4, 2, 2])


def levels():
    return (RANKS[:, None] > torch.arange(4)).float()


def shared_levels_by_hand():
    output = scores(1) + nn.Parameter(torch.zeros(4))
    log_probabilities = F.logsigmoid(output)
    return -(log_probabilities * levels() + (log_probabilities - output) * (1 - levels())).sum(1).mean()


@pytest.mark.parametrize(
    ("loss", "is_ordered"),
    [
        (lambda: F.binary_cross_entropy_with_logits(scores(4), levels()), True),
        (lambda: F.binary_cross_entropy(scores(4).sigmoid(), levels()), True),
        (lambda: F.binary_cross_entropy_with_logits(scores(4), 0.9 * levels() + 0.05), True),
        (shared_levels_by_hand, True),
        (lambda: F.binary_cross_entropy_with_logits(scores(5), F.one_hot(RANKS, 5).float()), False),
        (lambda: F.binary_cross_entropy_with_logits(scores(4), torch.eye(4)[[0, 0, 0, 0, 0, 0]]), None),
        (lambda: F.binary_cross_entropy_with_logits(scores(4), torch.ones(N, 4)), None),
        (lambda: F.cross_entropy(scores(), classes()), None),
        (lambda: F.binary_cross_entropy_with_logits(scores(1), some_of_each(N, 1)), None),
    ],
)
def test_levels_of_an_order_fall_along_each_row_of_targets(loss, is_ordered):
    (term,) = read_loss(loss())
    assert term.is_ordered is is_ordered


def test_targets_are_read_as_they_lie_in_the_graph():
    unpacked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: unpacked.append(1) or tensor):
        loss = F.binary_cross_entropy_with_logits(scores(4), levels())
    assert read_loss(loss)[0].is_ordered
    assert unpacked == []
    loss.backward()
    assert read_loss(loss)[0].is_ordered is None


def test_a_step_that_is_compiled_as_a_whole_tells_nothing():
    torch.compiler.reset()
    model = network()
    step = torch.compile(lambda batch, labels: F.cross_entropy(model(batch), labels), backend="aot_eager")
    assert read_loss(step(images(), classes())) == (LossTerm((), "unknown"),)


def test_without_a_graph_there_are_no_terms():
    assert read_loss(torch.tensor(1.0)) == ()
    assert read_loss(torch.tensor(1.0, requires_grad=True)) == ()
    assert read_loss(F.cross_entropy(scores(), classes()).detach()) == ()


def test_the_value_of_the_loss_does_not_matter():
    loss = F.cross_entropy(scores(), torch.full((N,), -100))  # the mean over no sample
    assert loss.isnan()
    assert uses(loss) == {(K,): "softmax"}


def test_reading_leaves_the_graph_as_it_was():
    model, batch, labels = network(), images(), classes()
    expected = torch.autograd.grad(F.cross_entropy(model(batch), labels), list(model.parameters()))
    model.zero_grad()
    loss = F.cross_entropy(model(batch), labels)
    assert read_loss(loss) == read_loss(loss)
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad.double(), gradient.double(), rtol=1e-4, atol=1e-6)


def test_of_a_deep_network_only_the_end_is_read_since_torch_frees_long_chains_that_python_has_seen_by_recursion():
    layer, output = nn.Linear(K, K), torch.randn(N, K)
    for _ in range(50_000):
        output = layer(output).relu()
    loss = F.cross_entropy(output, classes())
    assert uses(loss) == {(K,): "softmax"}
    del output, loss  # which crashes where each of the nodes was touched
    output = layer(torch.randn(N, K))
    for _ in range(100_000):
        output = output * 1.0
    start = time.process_time()
    assert uses(F.cross_entropy(output, classes())) == {}
    assert time.process_time() - start < 30  # a tenth of a second
