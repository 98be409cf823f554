"""Claims and reference numbers: the keys of conf/claims.yaml and of the files in conf/reference."""

from typing import Annotated, Any, Literal

from pydantic import Field

from lowrank_bench.config.entries import Strict, Target
from lowrank_bench.config.values import MOST_ENTRIES, Distinct, Name, Prose, Real, Title, Whole

Rates = Annotated[list[Annotated[Real, Field(gt=0, lt=1)]], Distinct]
Names = Annotated[list[Name], Distinct]
Points = Annotated[Real, Field(ge=-100, le=100)]
Experiments = Annotated[Names, Field(min_length=1, max_length=MOST_ENTRIES)]
MOST_NUMBERS = 1000


class Series(Strict):
    """Which cells of an experiment are meant: those of a method with at least these parameters.

    `dense` is the network before compression, trained no further.
    """

    method: Name
    params: dict[Name, Any] = Field(default_factory=dict, max_length=MOST_ENTRIES)


class Claim(Strict):
    """A sentence of a paper or of this suite as a contrast of two series.

    It holds where the score of `first` is above that of `second` by more than `margin` points, on
    average over networks, `tasks`, seeds and `rates`, where layers of the kind `target` were
    compressed. Without `tasks` or `models` all of them are meant. `trained: true` compares networks
    that were trained after compression, `false` those that were not; left out, both.
    """

    text: Prose
    paper: Name
    where: Title
    experiments: Experiments
    first: Series
    second: Series
    target: Target
    margin: Points = 0.0
    rates: Rates = Field(min_length=1, max_length=100)
    models: Names = Field([], max_length=MOST_ENTRIES)
    tasks: Names = Field([], max_length=MOST_ENTRIES)
    trained: bool | None = None


class Stated(Strict):
    """A number of a paper.

    `drop` is what the network loses, in `points` or in `percent` of its score; with `at_most` the
    paper gives a bound. `saving` is the largest share that the paper saves at a loss of at most
    half a point. `rate` is the share that is saved, of parameters or of multiply-adds. `series`
    is how the method is called here, `method` how the paper calls it. A `stated` number is written
    in the source, a `derived` one computed from it as `note` says.
    """

    where: Title
    network: Title
    task: Title
    method: Title
    series: Series
    kind: Literal["drop", "saving"] = "drop"
    rate: Annotated[Real, Field(gt=0, lt=1)] | None = None
    rate_of: Literal["parameters", "macs"] = "parameters"
    epochs_after: Annotated[Whole, Field(ge=0, le=10_000)] | Literal["all"] = 0
    value: Annotated[Real, Field(ge=-1000, le=1000)]
    unit: Literal["points", "percent"]
    at_most: bool = False
    status: Literal["stated", "derived"]
    note: Prose = ""


class Reference(Strict):
    """A paper's numbers, and which experiments are held against them.

    `networks` names ours for each network of the paper, `stand_ins` what stands for it: from our
    name to what it is. Other networks of an experiment are not set beside it.
    """

    title: Title
    source: Prose
    experiments: Experiments
    networks: dict[Title, Names] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    stand_ins: dict[Title, dict[Name, Title]] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    numbers: list[Stated] = Field(min_length=1, max_length=MOST_NUMBERS)
