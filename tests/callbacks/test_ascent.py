"""ClassModelCallback and FoolingCallback: what they log, and that training is not touched by them."""

import pytest
import torch
from networks import CNN_METHODS
from recipes import RECIPES, STRICT, run
from tiny import L, TinyClassifier, data, events, first, loader, picture, trainer
from torch.utils.data import TensorDataset

from lightning_saliency import SaliencyCallback, class_model_image, fooling_image
from lightning_saliency.callbacks import ClassModelCallback, Execution, FoolingCallback, Samples, Style
from lightning_saliency.callbacks.audit import changed
from lightning_saliency.visualization import Caption, grid, to_rgb


@pytest.mark.parametrize("recipe", RECIPES[:4], ids=lambda recipe: recipe.name)
def test_training_with_every_method_and_callback_is_the_training_without_them(recipe, tmp_path):
    without = run(recipe, tmp_path / "without")
    flipped = Execution(on_error="raise", flip=True, audit=True)
    ours = [
        SaliencyCallback(CNN_METHODS, samples=3, style=Style(cards="all"), execution=flipped),
        ClassModelCallback(steps=3, name="saliency/class_model", execution=STRICT),
        FoolingCallback(max_steps=3, name="saliency/fooling", samples=3, execution=STRICT),
    ]
    assert changed(without, run(recipe, tmp_path / "with", *ours)) == []
    tags = set(events(tmp_path / "with").Tags()["images"])
    assert {f"saliency/{method}" for method in CNN_METHODS} | {
        "saliency/fooling/samples",
        "saliency/class_model/0",
    } <= tags


def test_the_class_models_are_one_picture_a_class_made_by_the_model_of_that_epoch(tmp_path):
    L.seed_everything(0)
    model = TinyClassifier()
    callback = ClassModelCallback(
        steps=4, style=Style(class_names=["cat", "dog", "a/c"]), execution=Execution(on_error="raise")
    )
    trainer(tmp_path, callback).fit(model, loader(), loader())
    found = events(tmp_path)
    assert set(found.Tags()["images"]) == {"class_model/cat", "class_model/dog", "class_model/a-c"}
    assert [event.step for event in found.Images("class_model/dog")] == [0, 2, 5]
    image = data()[0][0]
    made = class_model_image(model, [0, 1, 2], (3, 16, 16), bounds=(image.min(), image.max()), steps=4)
    expected = grid(
        to_rgb(made.images)[1:2],
        {},
        title="epoch 1 · step 5",
        captions=[Caption("dog")],
        note=f"score {made.start_scores[1]:.3g} → {made.scores[1]:.3g}",
    )
    assert torch.equal(picture(found.Images("class_model/dog")[-1]), expected)
    assert "xai_class_model/seconds" in found.Tags()["scalars"]


class TakesBytes(TinyClassifier):
    """A model that converts bytes itself."""

    def forward(self, images):
        return super().forward(images.float() / 255 * 4 - 1)


@pytest.mark.parametrize(
    ("model", "to_inputs", "style", "bounds"),
    [
        (TinyClassifier, lambda pixels: pixels, None, (0.0, 1.0)),
        (TinyClassifier, lambda pixels: (pixels - 0.5) / 0.25, Style(mean=[0.5] * 3, std=[0.25] * 3), (-2.0, 2.0)),
        (TakesBytes, lambda pixels: (pixels * 255).byte(), None, (0.0, 255.0)),
        (TinyClassifier, torch.zeros_like, None, (0.0, 1.0)),  # pixels that are all black
    ],
    ids=["pixels", "normalized", "bytes", "black"],
)
def test_the_class_models_stay_between_black_and_white(model, to_inputs, style, bounds, tmp_path):
    images, labels = data()[:]
    inputs = to_inputs(((images + 1) / 4).clamp(0, 1))
    L.seed_everything(0)
    network = model()
    callback = ClassModelCallback([1], steps=5, style=style, execution=Execution(on_error="raise"))
    trainer(tmp_path, callback).validate(network, loader(TensorDataset(inputs, labels)), verbose=False)
    made = class_model_image(network, 1, (3, 16, 16), bounds=bounds, steps=5)
    low, high = bounds
    shades = made.images.byte() / 255 if model is TakesBytes else (made.images - low) / (high - low)
    expected = grid(
        to_rgb(shades, 0.0, 1.0),
        {},
        title="",
        captions=[Caption("1")],
        note=f"score {made.start_scores[0]:.3g} → {made.scores[0]:.3g}",
    )
    shown = picture(events(tmp_path).Images("class_model/1")[-1])
    rows = slice(-200, None)  # below the title
    assert (shown[:, rows].int() - expected[:, rows].int()).abs().float().mean() < 1


def test_chosen_classes_alone_are_made_and_at_most_ten_by_default(tmp_path):
    trainer(tmp_path, ClassModelCallback([2], steps=1)).validate(TinyClassifier(), loader(), verbose=False)
    assert events(tmp_path).Tags()["images"] == ["class_model/2"]


def test_classes_of_one_name_have_each_a_picture(tmp_path):
    callback = ClassModelCallback(
        steps=1, style=Style(class_names=["a/b", "a-b", "seconds"]), execution=Execution(on_error="raise")
    )
    trainer(tmp_path, callback).validate(TinyClassifier(), loader(), verbose=False)
    tags = {"class_model/a-b", "class_model/a-b (1)", "class_model/seconds (2)"}
    assert set(events(tmp_path).Tags()["images"]) == tags


def test_the_fooled_samples_and_how_many_steps_it_took(tmp_path):
    L.seed_everything(0)
    model = TinyClassifier()
    callback = FoolingCallback(step_size=0.1, max_steps=8, samples=first(5), execution=Execution(on_error="raise"))
    runner = trainer(tmp_path, callback, L.callbacks.EarlyStopping("fooling_median_steps", mode="max", patience=9))
    runner.fit(model, loader(), loader())
    images, labels = data()[:5]
    bounds = images.min(), images.max()  # the normalization is not known
    made = fooling_image(model, images, step_size=0.1, max_steps=8, bounds=bounds)
    steps = torch.where(made.fooled, made.steps, 8)
    found = events(tmp_path)
    assert found.Scalars("xai_fooling/median_steps")[-1].value == float(steps.float().median())
    for name in ("xai_fooling/median_steps", "fooling_median_steps"):
        assert float(runner.callback_metrics[name]) == float(steps.float().median())
    captions = [
        Caption(
            f"true {label} · taken for {to} after {count} step{'' if count == 1 else 's'}"
            if fooled
            else f"true {label} · not taken for {to} within {count} steps"
        )
        for label, to, count, fooled in zip(
            labels.tolist(), made.targets.tolist(), made.steps.tolist(), made.fooled.tolist(), strict=True
        )
    ]
    largest = made.changes.abs().amax((1, 2, 3), keepdim=True)
    expected = grid(
        to_rgb(images),
        {
            "the change, magnified": to_rgb(made.changes / largest, 0.5, 0.5),
            "with the change": to_rgb(made.images),
        },
        title="epoch 1 · step 5",
        captions=captions,
        note="steps of 0.1 a pixel, method: sign",
    )
    assert torch.equal(picture(found.Images("fooling/samples")[-1]), expected)


class SeesBeyondWhite(TinyClassifier):
    """Takes for class 1 what is brighter than white, in the units of its input."""

    def __init__(self, white):
        super().__init__()
        self.white = white

    def forward(self, images):
        brightness = images.mean((1, 2, 3))
        return torch.stack([torch.full_like(brightness, self.white + 0.2), brightness, brightness - 9], 1)


@pytest.mark.parametrize("white", [1.0, 2.0])
def test_fooled_samples_stay_between_black_and_white(white, tmp_path):
    images, labels = data()[:]
    inputs = ((images + 1) / 2).clamp(0, 1) * 2 * white - white if white > 1 else ((images + 1) / 2).clamp(0, 1)
    style = Style(mean=0.5, std=0.25) if white > 1 else None
    model, options = SeesBeyondWhite(white), {"step_size": 0.5, "max_steps": 9}
    assert fooling_image(model, inputs[:5], 1, **options).fooled.all()
    callback = FoolingCallback(1, **options, samples=first(5), style=style, execution=Execution(on_error="raise"))
    runner = trainer(tmp_path, callback)
    runner.validate(model, loader(TensorDataset(inputs, labels)), verbose=False)
    assert runner.callback_metrics["fooling_median_steps"] == 9


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: ClassModelCallback([]), ValueError, r"`classes` to be one or more class indices, got \[\]"),
        (lambda: ClassModelCallback([-1]), ValueError, "`classes` to be an int from 0, got -1"),
        (lambda: ClassModelCallback(steps=0), ValueError, "`steps` to be a positive int, got 0"),
        (lambda: ClassModelCallback(steps=1.5), TypeError, "`steps` to be a positive int, got 1.5"),
        (
            lambda: ClassModelCallback(execution=Execution(output_fn=3)),
            TypeError,
            r"`execution\.output_fn` to be a function, a key of",
        ),
        (lambda: ClassModelCallback(every_n_epochs=0), ValueError, "`every_n_epochs` to be a positive int"),
        (lambda: FoolingCallback(-1), ValueError, "`target` to be an int from 0, got -1"),
        (lambda: FoolingCallback(method="fast"), ValueError, "`method` to be one of sign, gradient, got 'fast'"),
        (lambda: FoolingCallback(step_size=0), ValueError, "`step_size` to be a number above 0, got 0"),
        (
            lambda: FoolingCallback(samples=Samples(choose="best")),
            ValueError,
            r"`samples\.choose` to be one of spread, first, per_class, hardest, got 'best'",
        ),
        (
            lambda: FoolingCallback(style=Style(class_names="cat")),
            TypeError,
            r"`style\.class_names` to be a list of names",
        ),
    ],
)
def test_wrong_options_are_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_two_that_would_share_a_tag_are_refused_and_names_tell_them_apart(tmp_path):
    with pytest.raises(ValueError, match="'fooling/samples' twice"):
        trainer(tmp_path, FoolingCallback(), FoolingCallback(2, samples=3)).validate(
            TinyClassifier(), loader(), verbose=False
        )
    both = [FoolingCallback(max_steps=1), FoolingCallback(2, max_steps=1, name="into_2"), SaliencyCallback("cam")]
    trainer(tmp_path, *both).validate(TinyClassifier(), loader(), verbose=False)
    assert set(events(tmp_path).Tags()["images"]) == {"fooling/samples", "into_2/samples", "saliency/cam"}


def test_what_cannot_work_is_an_error_before_the_first_training_step(tmp_path):
    for callback in (ClassModelCallback(model="net"), FoolingCallback(model="net")):
        with pytest.raises(ValueError, match="`model` to name a module of TinyClassifier, got 'net'"):
            trainer(tmp_path, callback).fit(TinyClassifier(), loader(), loader())
    with pytest.raises(ValueError, match="below the model's 3 classes"):
        trainer(tmp_path, ClassModelCallback([7])).fit(TinyClassifier(), loader(), loader())
