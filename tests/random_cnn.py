"""Random small CNNs: splits, shuffles, concatenations, shape arithmetic, odd heads and outputs."""

import copy
import dataclasses
import random
from collections import OrderedDict, namedtuple
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


@dataclasses.dataclass
class Scores:
    """An output as some libraries return it."""

    scores: torch.Tensor
    note: str = "scores"


class Held:
    """A plain object with its outputs in attributes."""

    def __init__(self, scores):
        self.scores, self.extra = scores, {"again": [scores * 2]}


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("scores",)

    def __init__(self, scores):
        self.scores = scores


Named = namedtuple("Named", "scores extra")

OUTPUTS = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, None),
    "dict": lambda y: OrderedDict(logits=y),
    "dataclass": Scores,
    "object": Held,
    "slots": Slotted,
    "named": lambda y: Named(y, 3),
    "nested": lambda y: {"a": [Scores(Held(y))]},
}


def scores_of(output):
    """Return the one tensor of scores of an output of any of these forms."""
    while not isinstance(output, torch.Tensor):
        if isinstance(output, dict):
            output = next(iter(output.values()))
        elif isinstance(output, list) or type(output) is tuple:
            output = output[0]
        else:
            output = output.scores
    return output


# What happens to channels between two layers; `c` is the number in the dense network.
MOVES = {
    "relu": lambda y, c: y.relu(),
    "gelu": lambda y, c: F.gelu(y),
    "pool": lambda y, c: F.max_pool2d(y, 2, ceil_mode=True),
    "halves": lambda y, c: torch.cat([y[:, : c // 2].relu(), y[:, c // 2 :].tanh()], 1),
    "chunk": lambda y, c: torch.cat([part * (i + 1) for i, part in enumerate(y.chunk(2, 1))], 1),
    "swap": lambda y, c: torch.cat(y.chunk(2, 1)[::-1], 1),
    "count": lambda y, c: y / y.shape[1],
    "hard view": lambda y, c: y.view(-1, c, *y.shape[2:]).relu(),
    "shuffle": lambda y, c: (
        y.view(len(y), 2, y.shape[1] // 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
    ),
    "flip": lambda y, c: torch.stack(y.unbind(1)[::-1], 1),
    "every second": lambda y, c: torch.cat([y[:, ::2], y[:, 1::2].relu()], 1),
}


class RandomCnn(nn.Module):
    """Three to five convolutions with random moves between them, sums, and a random head."""

    def __init__(self, seed):
        super().__init__()
        dice = random.Random(seed)
        torch.manual_seed(seed)
        widths = [3] + [2 * dice.randint(3, 7) for _ in range(dice.randint(2, 4))]
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise(widths):
            size = dice.choice([1, 3])
            self.convs.append(nn.Conv2d(before, after, size, padding=size // 2))
            self.norms.append(nn.BatchNorm2d(after) if dice.random() < 0.5 else nn.Identity())
        names = list(MOVES)
        plain = names[:3]
        self.moves = [dice.choice(names if dice.random() < 0.4 else plain) for _ in self.convs]
        self.residual = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.adds = dice.random() < 0.5
        self.joins = dice.random() < 0.3
        self.flat = dice.random() < 0.3
        self.widths, self.form = widths[1:], dice.choice(list(OUTPUTS))
        features = widths[-1] * (2 if self.joins else 1) * (16 if self.flat else 1)
        self.head = nn.Linear(features, dice.randint(2, 11))
        for norm in self.norms:
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.bias, 0, 0.5)
                norm.running_mean.normal_(0, 0.3)

    def steps(self):
        """Return the layers, what follows each, and its number of channels in the dense network."""
        return zip(self.convs, self.norms, self.moves, self.widths, strict=True)

    def forward(self, x):
        for conv, norm, move, width in self.steps():
            x = MOVES[move](norm(conv(x)), width)
        if self.adds:
            x = x + self.residual(x)
        if self.joins:
            x = torch.cat([x, x.tanh()], 1)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1) if self.flat else x.mean((2, 3))
        return OUTPUTS[self.form](self.head(x))


def masked(model, graph, kept):
    """Return a copy of a dense network in which no layer reads the channels that are gone.

    `kept` holds for each layer the channels that it still writes.
    """
    gone = {0: False}
    for name, units in graph.writes.items():
        for place, unit in enumerate(units):
            if unit:
                gone[unit] = place not in kept[name]
    model = copy.deepcopy(model)
    for name, units in graph.reads.items():
        layer = model.get_submodule(name)
        for place, unit in enumerate(units):
            if gone[unit] and getattr(layer, "groups", 1) == 1:
                with torch.no_grad():
                    layer.weight[:, place] = 0
    return model
