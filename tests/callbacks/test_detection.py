"""Detectors: class scores and boxes of queries, and lists of what is detected."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, explain, load_record

N, SIDE, QUERIES, CLASSES = 8, 16, 5, 3
GENERATOR = torch.Generator().manual_seed(0)
PICTURES = torch.randn(N, 3, SIDE, SIDE, generator=GENERATOR)


class Detector(L.LightningModule):
    """Class scores and boxes of queries, as DETR has them; the loss matches queries with objects in order."""

    names = ("logits", "pred_boxes")
    has_none = True

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, QUERIES * 8, 3, padding=1), nn.ReLU()
        )
        self.classes, self.boxes = nn.Linear(8, CLASSES + self.has_none), nn.Linear(8, 4)

    def forward(self, images):
        queries = self.net(images).mean((2, 3)).view(len(images), QUERIES, 8)
        scores, boxes = self.classes(queries), self.boxes(queries).sigmoid()
        return dict(zip(self.names, (scores, boxes), strict=True)) | {"last_hidden_state": queries}

    def loss(self, batch):
        output = self(torch.stack(list(batch[0])))
        scores, boxes = (output[name] for name in self.names)
        classes = torch.full(scores.shape[:2], CLASSES)
        classes[:, 0] = torch.stack([target["labels"][0] for target in batch[1]])
        near = F.l1_loss(boxes[:, 0], torch.stack([target["boxes"][0] for target in batch[1]]))
        return self.class_loss(scores, classes) + 5 * near

    def class_loss(self, scores, classes):
        return F.cross_entropy(scores.transpose(1, 2), classes)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), batch_size=4)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OfSigmoids(Detector):
    names = ("pred_logits", "pred_boxes")
    has_none = False

    def class_loss(self, scores, classes):
        return F.binary_cross_entropy_with_logits(scores, F.one_hot(classes, CLASSES + 1)[..., :-1].float())


class Lists(Detector):
    """Returns losses in training, and lists of what it has detected else, as torchvision's detectors do."""

    is_detached = False

    def forward(self, pictures, targets=None):
        output = super().forward(torch.stack(list(pictures)))
        if self.training:
            classes = torch.stack([target["labels"][0] for target in targets])
            return {"loss_classes": F.cross_entropy(output["logits"][:, 0], classes)}
        scores, labels = output["logits"].softmax(2)[..., :-1].max(2)
        if self.is_detached:
            scores = scores.detach()
        return [
            {"boxes": boxes * SIDE, "scores": score[kept], "labels": label[kept]}
            for boxes, score, label, kept in zip(output["pred_boxes"], scores, labels, scores > 0, strict=True)
        ]

    def training_step(self, batch, batch_idx):
        return sum(self(batch[0], batch[1]).values())

    def validation_step(self, batch, batch_idx):
        self.log("val_count", float(sum(len(one["scores"]) for one in self(batch[0]))), batch_size=4)


class Scenes(torch.utils.data.Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        labels = torch.tensor([index % CLASSES, (index + index // 4) % CLASSES])
        return PICTURES[index], {"boxes": torch.tensor([[0.5, 0.5, 0.25, 0.5]] * 2), "labels": labels}


def fitted(tmp_path, module, *callbacks):
    torch.manual_seed(0)
    data = loader(Scenes(), batch_size=4, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    trainer(tmp_path, *callbacks, max_epochs=1).fit(module, data, data)
    return [value.clone() for value in module.state_dict().values()]


def looked_at(tmp_path, module):
    keeps = Keeps()
    fitted(tmp_path, module, SaliencyCallback(outputs=[keeps], samples=4))
    return keeps.looks[-1]


@pytest.mark.parametrize(("kind", "task"), [(Detector, "detection_softmax"), (OfSigmoids, "detection")])
def test_the_best_box_of_a_class_is_explained(tmp_path, kind, task):
    torch.manual_seed(1)
    module = kind()
    look = looked_at(tmp_path, module)
    explanation = look.explained[0].explanation
    assert explanation.task.name == task
    with torch.no_grad():
        scores, boxes, _ = module.eval()(PICTURES[:4]).values()
    probabilities = scores.softmax(2)[..., :-1] if kind is Detector else scores.sigmoid()
    torch.testing.assert_close(explanation.probabilities, probabilities.amax(1))
    assert explanation.predictions.tolist() == probabilities.amax(1).argmax(1).tolist()
    best = boxes.gather(1, probabilities.argmax(1)[..., None].expand(-1, -1, 4)) * SIDE
    expected = torch.cat([best[..., :2] - best[..., 2:] / 2, best[..., :2] + best[..., 2:] / 2], 2)
    torch.testing.assert_close(explanation.boxes, expected)
    assert [sample.truth for sample in look.samples.samples] == [(0,), (1,), (2,), (0,)]
    assert explanation.attributions["hires_cam"].abs().sum() > 0
    assert load_record(tmp_path)[-1].task == task


def test_lists_of_detections_are_explained_by_the_odds_of_their_scores(tmp_path):
    torch.manual_seed(1)
    module = Lists()
    torch.manual_seed(1)
    alone = fitted(tmp_path / "alone", Lists())
    keeps = Keeps()
    watched = fitted(tmp_path / "watched", module, SaliencyCallback(outputs=[keeps], samples=4, target="predicted"))
    assert all(map(torch.equal, watched, alone))
    explanation = keeps.looks[-1].explained[0].explanation
    with torch.no_grad():
        detected = module.eval()(PICTURES[:4])
    for row, one in enumerate(detected):
        best = int(one["scores"].argmax())
        label = int(one["labels"][best])
        assert int(explanation.predictions[row]) == label
        torch.testing.assert_close(explanation.scores[row], torch.logit(one["scores"][best]))
        torch.testing.assert_close(explanation.boxes[row, label], one["boxes"][best])
    assert explanation.boxes.isnan().any()
    assert explanation.attributions["hires_cam"].abs().sum() > 0


def test_detached_scores_are_refused_in_words(tmp_path):
    module = Lists()
    module.is_detached = True
    with pytest.warns(UserWarning, match="output_fn"):
        fitted(tmp_path, module, SaliencyCallback(samples=4))


def test_without_a_loss_the_kind_of_scores_is_to_be_named():
    module = Detector().eval()
    with pytest.raises(ValueError, match="task='detection_softmax'"):
        explain(module, PICTURES[:2], methods=["saliency"])
    explanation = explain(module, PICTURES[:2], methods=["saliency"], task="detection_softmax")
    assert explanation.boxes.shape == (2, CLASSES, 4)
