"""One name per mechanism: its own everywhere, and the paper's and the published class's find it."""

import pytest
import torch
from torch import nn

import core_attention
from core_attention import systems
from core_attention.registry.catalogue import declared, find

EXAMPLES = declared("examples")
KINDS = ("examples", "attentions", "converters", "inserts")


def test_one_name_in_every_list():
    """What a mechanism can also do, it does under the name that it is shown by, or under a declared alias of it."""
    for kind in KINDS[1:]:
        for name, entry in declared(kind).items():
            if name == "eca":  # a variant of squeeze-excitation without an example of its own
                continue
            shown = find("examples", name)
            assert shown is not None, f"{kind}: nothing is shown by the name {name!r}"
            assert shown.slug == entry.slug


@pytest.mark.parametrize("name", EXAMPLES)
def test_other_capitals_and_the_class_find_it(name):
    entry = EXAMPLES[name]
    for spelling in (name.upper(), name.replace("-", "_"), name.replace("-", "")):
        assert find("examples", spelling) == entry
    module = entry.load()(25).module
    public = type(module).__module__.startswith("core_attention.mechanisms") and not type(module).__name__.startswith(
        "_"
    )
    if public:
        by_class = find("examples", type(module).__name__)
        assert by_class is not None, f"{type(module).__name__} finds nothing"
        assert by_class.slug == entry.slug


def test_every_alias_stands_for_a_name():
    for slug in systems.slugs():
        system = systems.system(slug)
        for alias, name in system.aliases.items():
            assert name in system.examples, f"{slug}: {alias!r} stands for {name!r}, which it does not declare"
            assert find("examples", alias) == EXAMPLES[name]


def test_the_names_that_people_type():
    assert find("examples", "RALA") == EXAMPLES["rala"]
    assert find("examples", "MVPA") == EXAMPLES["mvpa"]
    assert find("inserts", "squeeze-excitation") == declared("inserts")["se"]
    assert find("inserts", "channel-attention") == declared("inserts")["cam"]
    assert find("examples", "nothing-of-ours") is None


def test_an_insertion_by_another_spelling_is_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32))
    core_attention.insert(model, "SqueezeExcitation", after="1")
    (one,) = core_attention.inserted(model)
    assert type(model.get_submodule(one.place).get_submodule(one.name)).__name__ == "SqueezeExcitation"
