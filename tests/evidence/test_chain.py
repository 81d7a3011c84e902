"""A module that follows another one is found by the numbers, and the chain of both says what they say."""

import pytest
import torch
from torch import nn

from lightning_saliency.data import plain_call
from lightning_saliency.evidence import Chain, RecordedCall, Stages, find_link, same_outputs
from lightning_saliency.evidence.chain import GLUES

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(1))


def calls(output, argument, **kwargs):
    given = ((), kwargs) if kwargs else ((argument,), {})
    return RecordedCall("body", plain_call(IMAGES), output, None), RecordedCall("head", None, None, "", given)


@pytest.mark.parametrize("name", GLUES)
def test_each_glue_is_found_also_inside_an_output_and_for_a_keyword(name):
    made = GLUES[name](MAPS)
    link = find_link(*calls({"other": torch.zeros(4, 2), "maps": [MAPS]}, made))
    assert (link.path, link.glue, link.keyword) == (("maps", 0), name, None)
    assert find_link(*calls(MAPS, None, features=made)).keyword == "features"
    ((argument,), kwargs) = link.arguments({"maps": [MAPS[:1]]})
    assert kwargs == {}
    torch.testing.assert_close(argument, made[:1])


def test_a_list_of_maps_is_handed_on_as_it_is():
    link = find_link(*calls([MAPS, MAPS[:, :1]], [MAPS.clone(), MAPS[:, :1].clone()]))
    assert (link.path, link.glue) == ((), "itself")


@pytest.mark.parametrize("argument", [torch.randn(4, 6), MAPS + 1e-3, torch.zeros(4, 6, 5, 7), [MAPS], MAPS.double()])
def test_what_is_not_made_of_an_output_is_no_link(argument):
    assert find_link(*calls(MAPS, argument)) is None


def test_more_than_one_argument_is_no_link():
    source, head = calls(MAPS, MAPS)
    assert find_link(source, RecordedCall("head", None, None, "", ((MAPS, torch.zeros(4)), {}))) is None
    assert find_link(source, head) is not None


def test_a_chain_shares_its_modules_and_keeps_their_names_and_the_state_of_its_stages():
    owner = nn.ModuleDict({"net": nn.ModuleDict({"body": nn.Conv2d(3, 6, 3)}), "head": nn.Linear(6, 2)}).eval()
    source = RecordedCall("net.body", plain_call(IMAGES), owner["net"]["body"](IMAGES), None)
    link = find_link(source, calls(None, source.output.mean((2, 3)))[1])
    stages = Stages.from_state(Stages("net.body", (link,)).state_dict())
    chain = stages.module(owner)
    assert isinstance(chain, Chain)
    assert not chain.training
    assert dict(chain.named_parameters()).keys() == dict(owner.named_parameters()).keys()
    assert all(ours is theirs for ours, theirs in zip(chain.parameters(), owner.parameters(), strict=True))
    assert same_outputs(chain(IMAGES), owner["head"](source.output.mean((2, 3))))
    assert Stages("head").module(owner) is owner["head"]
