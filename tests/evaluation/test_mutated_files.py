"""JSON files with wrong values: each is read, or refused with an error of one line."""

import copy
import json
import random

from evaluation import measured

from jaxsplit import cost
from jaxsplit.cli.info import describe
from jaxsplit.codec.rate_control import rates_for
from jaxsplit.errors import JaxsplitError
from jaxsplit.evaluation.compare import MeasuredCurve, compare_curves
from jaxsplit.family import RateFamily
from jaxsplit.family.latency import link_options
from jaxsplit.reports import curve_table

ODD = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 10**400, -(10**400)),
    *(float("nan"), float("inf"), "", "x", "r1", "\x1b[2J\n", "\ud800", "é" * 300, "../../etc"),
    *([], [[]], [1], [1, 2, 3], ["a", None], {}, {"a": 1}, {"kind": "bottleneck"}),
)


def entries(node, path=()):
    """The paths of all values in a JSON document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from entries(value, (*path, key))


def mutated(document, random):
    """The document with one to three values replaced, removed, doubled or renamed."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        paths = list(entries(document))
        *parents, last = random.choice(paths) if paths else [None]
        node = document
        for key in parents:
            node = node[key]
        if last is None:
            return random.choice(ODD)
        act = random.random()
        if act < 0.7:
            node[last] = random.choice(ODD)
        elif act < 0.8:
            del node[last]
        elif isinstance(node, list):
            node.append(copy.deepcopy(node[last]))
        else:
            node[random.choice((f"{last}s", "", "kind", "\x1b"))] = node.pop(last)
    return document


def holds(work):
    """Runs something that may refuse its input; returns whether it did not."""
    try:
        work()
    except JaxsplitError as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said
    assert len(said) < 3000
    return False


def test_a_mutated_index_is_read_or_refused(tiny_family, tiny_backbone, tmp_path):
    tiny_family.save(tmp_path, packed=True)
    index = json.loads((tmp_path / "family.json").read_text())
    index["rates"][0]["measured"] = {"bytes_per_image": 9.5, "top1": 0.5, "uncompressed_top1": 0.9}
    index["card"] = {"command": "x", "evaluation": {"data": "embedded", "check": {"images": 1}}}
    link, task, chooser = cost.Link(5, 1000, 8), tiny_backbone.task, random.Random(0)

    def use():
        family = RateFamily.load(tmp_path)
        described = describe(str(tmp_path)).lines
        assert all(line.isprintable() for line in described)
        holds(lambda: rates_for(family, quality=0.5, task=task))
        if read % 20 == 0:  # these take half a second
            holds(lambda: link_options({"it": family}, tiny_backbone, link))
            holds(lambda: family.codec(tiny_backbone))

    read = 0
    for _ in range(1000):
        (tmp_path / "family.json").write_text(json.dumps(mutated(index, chooser)))
        read += holds(use)
    assert 50 < read < 750


def test_a_mutated_curve_is_read_or_refused(tmp_path):
    reference = MeasuredCurve("", measured.curve_of(measured.draw(100)), None)
    original = json.loads(reference.curve.to_json())
    path, chooser = tmp_path / "curve.json", random.Random(0)

    def use():
        found = MeasuredCurve.open(path)
        holds(lambda: compare_curves(reference, found))
        curve_table.render(found.curve)
        curve_table.render_details(found.curve)

    read = 0
    for _ in range(1750):
        path.write_text(json.dumps(mutated(original, chooser)))
        read += holds(use)
    assert 100 < read < 1250
