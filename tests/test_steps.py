"""What `lowrank compress` says while it works."""

import time

from torch import nn

from lowrank_bench import compress
from lowrank_bench.cli.steps import Steps


def test_a_long_step_says_for_how_long_it_has_worked(capsys):
    with Steps(2, every=0.05) as steps:
        steps.begin("load it")
        steps.begin("do it")
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["[1/2] load it", "[2/2] do it"]
    assert len(lines) >= 4
    assert set(lines[2:]) == {"[2/2] do it · 0 s"}


def test_on_a_terminal_one_line_is_kept_up_to_date_and_leaves_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Steps(1, every=10) as steps:
        steps.begin("do it")
    assert capsys.readouterr().err == "\r\x1b[K[1/1] do it\r\x1b[K"


def test_an_error_ends_the_lines(capsys):
    threads = []
    try:
        with Steps(1, every=0.01) as steps:
            threads.append(steps._thread)
            steps.begin("do it")
            raise ValueError
    except ValueError:
        pass
    assert not threads[0].is_alive()


def test_each_target_says_which_steps_it_takes():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(40, 8), nn.Linear(8, 6)

        def forward(self, ids):
            return self.head(self.table(ids))

    import torch

    told: list[str] = []
    example = {"ids": torch.zeros(1, 3, dtype=torch.long)}
    compress(Network(), "svd", 0.4, on_step=told.append)
    compress(Network(), "svd", 0.4, on_step=told.append, certificate=False)
    compress(Network(), "svd", 0.4, "linear", on_step=told.append, example=example)
    assert [text.split()[0] for text in told] == ["factorize", "bound", "factorize", "compress"]
    assert "40 x 8, by svd" in told[0]
