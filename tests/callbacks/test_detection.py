"""Detectors: class scores and boxes of queries, and lists of what is detected."""

import pytest
import torch
import torch.nn.functional as F
from looking import Keeps
from tiny import L, loader, trainer
from torch import nn

from lightning_saliency import SaliencyCallback, explain, load_record
from lightning_saliency.visualization.captions import Names, prediction_captions

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


class ReturnsLoss(Detector):
    """Called with the whole batch, as transformers' detectors are; the mask of its pixels is no segmentation."""

    def forward(self, pixel_values, pixel_mask, labels):
        return super().forward(pixel_values)

    def loss(self, batch):
        output = self(**batch)
        classes = torch.full(output["logits"].shape[:2], CLASSES)
        classes[:, 0] = torch.stack([target["class_labels"][0] for target in batch["labels"]])
        near = F.l1_loss(output["pred_boxes"][:, 0], torch.stack([target["boxes"][0] for target in batch["labels"]]))
        return self.class_loss(output["logits"], classes) + 5 * near


def test_a_mask_of_pixels_beside_boxes_is_no_segmentation(tmp_path):
    def collate(items):
        targets = [{"class_labels": target["labels"], "boxes": target["boxes"]} for _, target in items]
        images = torch.stack([image for image, _ in items])
        return {"pixel_values": images, "pixel_mask": torch.ones(len(items), SIDE, SIDE), "labels": targets}

    keeps, data = Keeps(), loader(Scenes(), batch_size=4, collate_fn=collate)
    trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=4), max_epochs=1).fit(ReturnsLoss(), data, data)
    explanation = keeps.looks[-1].explained[0].explanation
    assert explanation.task.name == "detection_softmax"
    assert explanation.logits.shape == (4, CLASSES)
    sample = keeps.looks[-1].samples.samples[1]
    torch.testing.assert_close(sample.objects.corners, torch.tensor([[0.375, 0.25, 0.625, 0.75]] * 2) * SIDE)


class Fixed(Lists):
    """Detects in each image what stands in its first pixel: a class with a probability of 0.9, or nothing for 0."""

    has_graph = True

    def forward(self, pictures, targets=None):
        if self.training:
            return super().forward(pictures, targets)
        scores = Detector.forward(self, torch.stack(list(pictures)))["logits"][:, :1, 0]
        found = []
        for picture, score in zip(pictures, scores, strict=True):
            label = round(float(picture[0, 0, 0]))
            kept = (score - score.detach() + 0.9)[: int(label > 0)] if self.has_graph or label else torch.zeros(0)
            box = torch.tensor([[2.0, 2, 9, 9]])[: len(kept)]
            found.append({"boxes": box, "scores": kept, "labels": torch.full((len(kept),), label)})
        return found


class Marked(Scenes):
    def __getitem__(self, index):
        image = super().__getitem__(index)[0].clone()
        image[0, 0, 0] = index % 3  # nothing, 1, 2, nothing, …
        return image, {"boxes": torch.tensor([[2.0, 2, 9, 9]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize("has_graph", [True, False])
def test_nothing_detected_is_no_class_and_a_true_class_without_a_box_is_replaced_in_words(tmp_path, has_graph):
    module, keeps = Fixed(), Keeps()
    module.has_graph = has_graph
    data = loader(Marked(), batch_size=4, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    trainer(tmp_path, SaliencyCallback(outputs=[keeps], samples=6), max_epochs=1).fit(module, data, data)
    look = keeps.looks[-1]
    (group,) = look.explained
    assert group.explanation.answers == [(), (1,), (2,)] * 2
    assert group.explanation.classes.tolist() == [-1, 1, 2] * 2  # the true class is 1
    assert group.heatmaps("max")["hires_cam"].reasons[::3] == ("nothing detected",) * 2
    assert all(group.explanation.attributions["hires_cam"][row].abs().sum() > 0 for row in (1, 2, 4, 5))
    truths = [sample.truth for sample in look.samples.samples]
    words = [caption.text for caption in prediction_captions(group.explanation, truths, Names())]
    assert words[:3] == [
        "nothing detected · true 1",
        "class 1 90%",
        "predicted class 2 90% · true 1",
    ]
    record = load_record(tmp_path)[-1]
    assert (record.predictions[:3], record.classes[:3]) == (((), (1,), (2,)), (None, 1, 2))
    assert record.probabilities[0] is None
    assert record.boxes[1].tolist() == [[2, 2, 9, 9]]


def test_a_class_that_is_asked_for_and_has_no_box_is_blank(tmp_path):
    keeps = Keeps()
    data = loader(Marked(), batch_size=4, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    callback = SaliencyCallback("saliency", outputs=[keeps], samples=3, target=2)
    trainer(tmp_path, callback, max_epochs=1).fit(Fixed(), data, data)
    (group,) = keeps.looks[-1].explained
    assert group.heatmaps("max")["saliency"].reasons == ("nothing detected", "no box of this class", None)


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
