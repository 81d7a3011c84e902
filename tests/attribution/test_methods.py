"""Which methods there are, their options, and what is refused."""

import pytest
import torch
from closed_forms import LOOPS, gradient, map_and_gradient, positions, relu
from networks import CNN_METHODS, gap_net, plain_net
from states import assert_alike
from torch import nn

from lightning_saliency._checks import check_number
from lightning_saliency.attribution import METHODS, explain, find_method, grad_cam, parse_methods, to_heatmaps
from lightning_saliency.attribution.method import Method
from lightning_saliency.evidence import Evidence

LABELS = [2, 0, 1]
IMAGES = torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CAMS = ["grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam"]
REDUCED = [key for key, method in METHODS.items() if method.reduce is not None]


NONE = torch.zeros(1)


def evidence(A, g=None):
    return Evidence(NONE, NONE, NONE, activations=A, activation_grads=g)


SPELLINGS = {
    "cam": ["CAM", "ClassActivationMap", "class activation mapping"],
    "grad_cam": ["GradCAM", "Grad-CAM", "gradcam", "LayerGradCam"],
    "grad_cam_plus_plus": ["Grad-CAM++", "gradcam++", "GradCAM++", "GradCAMPlusPlus", "gradcampp", "GradCAMpp"],
    "integrated_gradients": ["ig", "IG", "IntegratedGradients", "Integrated Gradients"],
    "saliency": ["Saliency", "vanilla_gradient", "VanillaGradients", "gradient"],
    "guided_backprop": ["guided-backprop", "GuidedBackprop", "guided_backpropagation"],
    "guided_grad_cam": ["GuidedGradCam", "Guided Grad-CAM"],
    "score_cam": ["ScoreCAM", "Score-CAM"],
    "smooth_grad": ["SmoothGrad", "smoothgrad"],
    "smooth_grad_cam_plus_plus": ["SmoothGradCAM++", "SmoothGradCAMpp"],
    "input_x_gradient": ["InputXGradient", "Input × gradient", "gradient*input"],
    "attention_rollout": ["rollout", "AttentionRollout"],
    "deconvnet": ["Deconvolution", "DeconvNet"],
    "occlusion": ["Occlusion", "occlusion_sensitivity"],
    "lrp": ["LRP", "layer-wise relevance propagation"],
}


@pytest.mark.parametrize("key", SPELLINGS)
def test_methods_are_taken_as_papers_and_other_libraries_spell_them(key):
    for spelling in SPELLINGS[key]:
        assert parse_methods(spelling) == {key: {}}, spelling
    assert parse_methods({SPELLINGS[key][0]: None, key: {}}) == {key: {}}


def test_no_two_methods_share_a_spelling_and_each_title_is_one():
    spellings = [(key, name) for key, method in METHODS.items() for name in (key, *method.aliases)]
    assert all(find_method(name) == key for key, name in spellings)
    titles = {key: method.title.partition(" (")[0] for key, method in METHODS.items() if "," not in method.title}
    assert all(find_method(title) == key for key, title in titles.items())


def test_a_method_of_ones_own_goes_by_any_spelling_too(monkeypatch):
    monkeypatch.setitem(
        METHODS, "My Method", Method(lambda evidence: evidence.images, "Mine", frozenset({"input_grads"}))
    )
    assert list(parse_methods(["my_method", "saliency"])) == ["My Method", "saliency"]


def test_wrong_methods_and_normalizations_are_refused():
    assert list(parse_methods(["cam", "grad_cam", "cam"])) == ["cam", "grad_cam"]
    with pytest.raises(
        ValueError, match=r"`methods` out of cam, grad_cam, .*, got 'gradcma'\. Did you mean 'grad_cam'\?"
    ):
        parse_methods(["saliency", "gradcma"])
    for unknown in ("gradientshap", "shap", "lime"):
        with pytest.raises(ValueError, match=f"got '{unknown}'\\.$"):
            parse_methods(unknown)
    with pytest.raises(ValueError, match=r"`methods` to name at least one of cam, .*, got none"):
        parse_methods([])
    with pytest.raises(ValueError, match=r"`normalize` to be one of max, minmax, shared, got 'softmax'"):
        to_heatmaps(torch.rand(1, 1, 2, 2), (2, 2), "softmax")
    with pytest.raises(ValueError, match="`needs` of the method's row"):
        grad_cam(evidence(torch.rand(1, 1, 2, 2)))


def loops_reduce(values, how):
    """One map of the channels' signed values."""
    L = torch.zeros(values.shape[1:])
    for i, j in positions(values):
        column = values[:, i, j].tolist()
        L[i, j] = {
            "absolute": max(abs(value) for value in column),
            "signed": max(column, key=abs),
            "positive": max(*column, 0.0),
            "sum": sum(column),
        }[how]
    return L


@pytest.mark.parametrize("how", [None, "absolute", "signed", "positive", "sum"])
@pytest.mark.parametrize("method", REDUCED)
def test_the_channels_become_one_map_as_the_option_says(method, how):
    model = gap_net()
    found = explain(model, IMAGES, methods={method: {} if how is None else {"reduce": how}}, target=LABELS)
    signed, maps = found.signed[method], found.attributions[method]
    assert signed.shape == IMAGES.shape
    assert signed.dtype == torch.float32
    default = "sum" if method in ("input_x_gradient", "integrated_gradients") else "absolute"
    for row in range(3):
        assert_alike(maps[row, 0], loops_reduce(signed[row], how or default))
    if method == "saliency":
        expected = torch.stack([gradient(model.eval(), *pair) for pair in zip(IMAGES, LABELS, strict=True)])
        assert_alike(signed, expected)


def test_methods_that_read_a_layer_have_no_signed_values():
    assert list(explain(gap_net(), IMAGES, methods=CNN_METHODS).signed) == REDUCED


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("saliency", {"seed": 1}, r"options of 'saliency' in `methods` out of reduce, got 'seed'"),
        ("cam", {"principal": True}, r"options of 'cam' in `methods` out of none, got 'principal'"),
        ("score_cam", {"reduce": "sum"}, r"options of 'score_cam' in `methods` out of none, got 'reduce'"),
        (
            "smooth_grad",
            {"samples": 3},
            r"'smooth_grad' in `methods` out of num_samples, noise, seed, reduce, got 'samples'",
        ),
        ("saliency", {"reduce": "max"}, r"['reduce']` to be one of absolute, signed, positive, sum, got 'max'"),
        ("grad_cam", {"principal": "yes"}, r"`methods['grad_cam']['principal']` to be True or False, got 'yes'"),
        ("grad_cam", {"principal": 1}, r"`methods['grad_cam']['principal']` to be True or False, got 1"),
        ("smooth_grad", {"num_samples": 0}, r"`methods['smooth_grad']['num_samples']` to be a positive int, got 0"),
        ("smooth_grad", {"num_samples": 2.5}, r"['num_samples']` to be a positive int, got 2.5"),
        ("smooth_grad", {"noise": -0.1}, r"['noise']` to be a number from 0, got -0.1"),
        ("smooth_grad", {"seed": "a"}, r"['seed']` to be an int from 0, got 'a'"),
        ("smooth_grad_cam_plus_plus", {"num_samples": 0}, r"['num_samples']` to be a positive int, got 0"),
        ("integrated_gradients", {"steps": 0}, r"['steps']` to be a positive int, got 0"),
        ("integrated_gradients", {"baseline": "blur"}, r"['baseline']` to be a finite number, got 'blur'"),
        ("occlusion", {"size": 0}, r"['size']` to be a positive int, got 0"),
        ("occlusion", {"stride": -1}, r"['stride']` to be a positive int, got -1"),
        ("occlusion", {"fill": None}, r"['fill']` to be a finite number, got None"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(method, options, says):
    with pytest.raises((TypeError, ValueError)) as caught:
        explain(gap_net(), IMAGES, methods={method: options})
    assert says in str(caught.value)


@pytest.mark.parametrize("options", [["num_samples"], "num_samples", 50])
def test_options_that_are_no_dict_are_refused(options):
    with pytest.raises(TypeError, match=r"options of 'smooth_grad' in `methods` to be a dict, .* got"):
        explain(gap_net(), IMAGES, methods={"smooth_grad": options})


def weighted_maps(method, A, g):
    """w_k A_k of each channel: what the methods add up."""
    Z, total = A.shape[1] * A.shape[2], A.sum((1, 2), keepdim=True)
    return {
        "grad_cam": g.sum((1, 2), keepdim=True) / Z * A,
        "grad_cam_plus_plus": (g.clamp(min=0) / (2 + g * total)).sum((1, 2), keepdim=True) * A,
        "hires_cam": g * A,
        "layer_cam": g.clamp(min=0) * A,
        "xgrad_cam": (g * A).sum((1, 2), keepdim=True) / total * A,
    }[method]


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("method", CAMS)
def test_principal_shows_the_first_singular_component_with_the_sign_of_the_sum(method, layer):
    model = plain_net(nn.Tanh)
    found = explain(model, IMAGES, methods={method: {"principal": True}}, layer=str(layer), target=LABELS)
    shown = 0
    for row, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        A, g = map_and_gradient(model, layer, image, label)
        terms = weighted_maps(method, A, g)
        torch.testing.assert_close(relu(terms.sum(0)), LOOPS[method](A, g))
        matrix = terms.flatten(1).T  # positions × channels, uncentred
        U, S, _ = torch.linalg.svd(matrix, full_matrices=False)
        component = (U[:, 0] * S[0]).reshape(A.shape[1:])
        if (component * terms.sum(0)).sum() < 0:
            component = -component
        map_, expected = found.attributions[method][row, 0].double(), relu(component)
        torch.testing.assert_close(map_, expected, rtol=0, atol=1e-5 * float(component.abs().max()))
        shown += bool(expected.any())
    assert shown > 1  # not blank by chance


def scaled_gradient(evidence, *, steps=0.5, mode="any", **unused):
    """A method of one's own, whose `steps` is no count."""
    assert mode in ("any", "other")
    return steps * evidence.input_grads.abs().amax(1, keepdim=True)


def of_noise(evidence, passes, *, seed):
    """One of one's own with a further pass."""
    return passes.repeat(evidence.images + seed, {"input_grads"}).input_grads


def test_a_method_of_ones_own_is_one_more_entry_with_options_of_its_own(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", Method(scaled_gradient, "Mine", frozenset({"input_grads"})))
    noisy = Method(of_noise, "Noisy", frozenset(), reduce="sum", extra="noisy", checks={"seed": check_number})
    monkeypatch.setitem(METHODS, "noisy", noisy)
    methods = {"mine": {"steps": 2.5, "mode": "other"}, "saliency": {}, "noisy": {"seed": 0.0, "reduce": "absolute"}}
    found = explain(gap_net(), IMAGES, methods=methods, target=LABELS)
    assert_alike(found.attributions["mine"], 2.5 * found.attributions["saliency"])
    assert_alike(found.attributions["noisy"], found.attributions["saliency"])
    assert list(found.signed) == ["saliency", "noisy"]
    default = explain(gap_net(), IMAGES, methods=["mine"], target=LABELS).attributions["mine"]
    assert_alike(default, 0.5 * found.attributions["saliency"])
    for options, says in (
        ({"mine": {"step": 1}}, r"options of 'mine' in `methods` out of steps, mode, got 'step'"),
        ({"mine": {"reduce": "sum"}}, r"options of 'mine' in `methods` out of steps, mode, got 'reduce'"),
        ({"noisy": {"seed": "a"}}, r"`methods\['noisy'\]\['seed'\]` to be a finite number, got 'a'"),
        (
            {"integrated_gradients": {"steps": 2.5}},
            r"`methods\['integrated_gradients'\]\['steps'\]` to be a positive int, got 2.5",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            explain(gap_net(), IMAGES, methods=options)


def test_every_option_of_ours_has_a_check():
    for key, method in METHODS.items():
        for option in method.options:
            with pytest.raises((TypeError, ValueError), match=rf"`methods\['{key}'\]\['{option}'\]` to be "):
                method.parse_options(key, {option: "no such value"})
