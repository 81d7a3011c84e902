"""Clients without classes in the forms of Lightning's tutorials: embeddings, energies and pictures."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
import torchvision
from client_kinds import Case, Oracle, Samples, batches, client, features, image_batches, images
from client_tutorials import COURSE, TUTORIALS, Tutorial
from torch import Tensor, nn
from torch.utils.data import DataLoader


@client(COURSE, "`convnet` ends in an embedding, no `forward`, two views in the batch")
def simclr() -> Case:
    class SimCLR(Tutorial):
        def __init__(self, hidden_dim: int = 16) -> None:
            super().__init__()
            self.convnet = torchvision.models.resnet18(num_classes=4 * hidden_dim)
            self.convnet.fc = nn.Sequential(
                self.convnet.fc, nn.ReLU(inplace=True), nn.Linear(4 * hidden_dim, hidden_dim)
            )

        def info_nce_loss(self, batch: Any, mode: str) -> Tensor:
            imgs, _ = batch
            feats = self.convnet(torch.cat(list(imgs), dim=0))
            similarity = F.cosine_similarity(feats[:, None, :], feats[None, :, :], dim=-1)
            own = torch.eye(similarity.shape[0], dtype=torch.bool, device=similarity.device)
            similarity = similarity.masked_fill(own, -9e15) / 0.07
            nll = torch.logsumexp(similarity, dim=-1) - similarity[own.roll(shifts=own.shape[0] // 2, dims=0)]
            self.log(f"{mode}_loss", nll.mean())
            return nll.mean()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.info_nce_loss(batch, "train")

        def validation_step(self, batch: Any, _: int) -> None:
            self.info_nce_loss(batch, "val")

    def views(seed: int) -> Any:
        pairs = zip(images(3, 64, 64, seed=seed), images(3, 64, 64, seed=seed + 5), strict=True)
        return DataLoader(Samples([((first, second), 0) for first, second in pairs]), batch_size=4)

    oracle = Oracle("embedding", lambda module, batch: module.convnet(torch.cat(list(batch[0]))))  # as the step does
    return Case(SimCLR(), oracle, views(0), views(1))


@client(COURSE, "`forward` is one energy an image, `(N,)`; real and random images in one call")
def deep_energy_model() -> Case:
    class DeepEnergyModel(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.cnn = nn.Sequential(features(1), nn.Linear(16, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.cnn(x).squeeze(dim=-1)

        def training_step(self, batch: Any, _: int) -> Tensor:
            real, _ = batch
            real = real + torch.randn_like(real) * 0.005
            outputs = self(torch.cat([real, torch.rand_like(real) * 2 - 1]))
            real_out, fake_out = outputs.chunk(2, dim=0)
            return 0.1 * (real_out**2 + fake_out**2).mean() + fake_out.mean() - real_out.mean()

        def validation_step(self, batch: Any, _: int) -> None:
            real, _ = batch
            real_out, fake_out = self.cnn(torch.cat([real, torch.rand_like(real) * 2 - 1])).squeeze(-1).chunk(2)
            self.log("val_contrastive_divergence", fake_out.mean() - real_out.mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3, betas=(0.0, 0.999))

    oracle = Oracle("values", lambda module, batch: module(batch[0]))
    return Case(DeepEnergyModel(), oracle, *image_batches(1, 28, 28, count=10))


@client(COURSE, "a list of flows, `forward` is the likelihood of integer images")
def normalizing_flow() -> Case:
    class CouplingLayer(nn.Module):
        def __init__(self, parity: int) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
            rows = torch.arange(16)
            self.register_buffer("mask", ((rows[:, None] + rows[None]) % 2 == parity).float()[None, None])

        def forward(self, z: Tensor, ldj: Tensor) -> tuple[Tensor, Tensor]:
            s, t = self.network(z * self.mask).chunk(2, dim=1)
            s, t = torch.tanh(s) * (1 - self.mask), t * (1 - self.mask)
            return (z + t) * torch.exp(s), ldj + s.sum(dim=[1, 2, 3])

    class ImageFlow(Tutorial):
        def __init__(self) -> None:
            super().__init__()
            self.flows = nn.ModuleList([CouplingLayer(0), CouplingLayer(1)])

        def forward(self, imgs: Tensor) -> Tensor:
            return self.likelihood(imgs)

        def likelihood(self, imgs: Tensor) -> Tensor:
            z, ldj = (imgs.float() + torch.rand(imgs.shape)) / 256.0, torch.zeros(imgs.shape[0])
            for flow in self.flows:
                z, ldj = flow(z, ldj)
            return (z**2).sum(dim=[1, 2, 3]) / 2 - ldj

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.likelihood(batch[0]).mean()

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_bpd", self.likelihood(batch[0]).mean())

    pixels = torch.randint(0, 256, (8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    loader = batches(pixels, torch.zeros(8, dtype=torch.long))
    return Case(ImageFlow(), Oracle(), loader, loader)


@client(COURSE, "convolutional encoder and decoder, `forward` is the picture")
def deep_autoencoder() -> Case:
    class Autoencoder(Tutorial):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(8 * 256, 16)
            )
            self.decoder = nn.Sequential(
                nn.Linear(16, 8 * 256),
                nn.Unflatten(1, (8, 16, 16)),
                nn.GELU(),
                nn.ConvTranspose2d(8, 3, 3, output_padding=1, padding=1, stride=2),
                nn.Tanh(),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x))

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, _ = batch
            return F.mse_loss(x, self.forward(x), reduction="none").sum(dim=[1, 2, 3]).mean(dim=[0])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.training_step(batch, 0))

    oracle = Oracle("images", lambda module, batch: module(batch[0]))
    return Case(Autoencoder(), oracle, *image_batches(count=10))


@client(COURSE, "support and query in one batch, prototypes from the labels, no `forward`")
def proto_net() -> Case:
    class ProtoNet(Tutorial):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(features(), nn.Linear(16, 12))

        def calculate_loss(self, batch: Any) -> Tensor:
            imgs, targets = batch
            support, query = self.model(imgs).chunk(2, dim=0)
            support_targets, query_targets = targets.chunk(2, dim=0)
            known = torch.unique(support_targets)
            prototypes = torch.stack([support[support_targets == label].mean(dim=0) for label in known])
            scores = F.log_softmax(-(torch.cdist(query, prototypes) ** 2), dim=1)
            return F.cross_entropy(scores, (query_targets[:, None] == known[None]).long().argmax(dim=-1))

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.calculate_loss(batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.calculate_loss(batch))

    labels = torch.tensor([0, 1, 0, 1] * 2)
    oracle = Oracle("embedding", lambda module, batch: module.model(batch[0]), lambda batch: batch[1])
    return Case(ProtoNet(), oracle, batches(images(), labels), batches(images(seed=1), labels))


@client(TUTORIALS, "`forward` is the encoder's embedding; the loss calls the projection; validation")
def barlow_twins() -> Case:
    class BarlowTwins(Tutorial):
        def __init__(self, dim: int = 16) -> None:
            super().__init__()
            encoder = torchvision.models.resnet18()
            encoder.fc = nn.Identity()
            self.encoder = encoder
            self.projection_head = nn.Sequential(
                nn.Linear(512, dim, bias=False), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim, bias=False)
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def shared_step(self, batch: Any) -> Tensor:
            (x1, x2, _), _ = batch
            z1, z2 = self.projection_head(self.encoder(x1)), self.projection_head(self.encoder(x2))
            cross_corr = F.normalize(z1, dim=0).T @ F.normalize(z2, dim=0)
            return (cross_corr - torch.eye(len(cross_corr))).pow(2).sum()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.shared_step(batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.shared_step(batch))

    def views(seed: int) -> Any:
        three = zip(*(images(seed=seed + step) for step in (0, 5, 9)), strict=True)
        return DataLoader(Samples([(views, 0) for views in three]), batch_size=4)

    oracle = Oracle("embedding", lambda module, batch: module(batch[0][0]))
    return Case(BarlowTwins(), oracle, views(0), views(1))


@client("lightning-bolts", "encoder, `fc_mu` and `fc_var`, a random code in each step; `forward` is the picture")
def vae() -> Case:
    class VAE(Tutorial):
        def __init__(self, latent_dim: int = 8) -> None:
            super().__init__()
            self.encoder = features()
            self.decoder = nn.Sequential(nn.Linear(latent_dim, 3 * 32 * 32), nn.Unflatten(1, (3, 32, 32)))
            self.fc_mu, self.fc_var = nn.Linear(16, latent_dim), nn.Linear(16, latent_dim)

        def forward(self, x: Tensor) -> Tensor:
            x = self.encoder(x)
            return self._run_step(x)[2]

        def _run_step(self, x: Tensor) -> tuple[Any, Any, Tensor]:
            mu, log_var = self.fc_mu(x), self.fc_var(x)
            p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
            q = torch.distributions.Normal(mu, torch.exp(log_var / 2))
            return p, q, self.decoder(q.rsample())

        def step(self, batch: Any) -> Tensor:
            x, _ = batch
            p, q, x_hat = self._run_step(self.encoder(x))
            return F.mse_loss(x_hat, x) + 0.1 * torch.distributions.kl_divergence(q, p).mean()

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.step(batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.step(batch))

    return Case(VAE(), Oracle(), *image_batches(count=10))
