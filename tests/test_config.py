"""Composition and validation: what is accepted, and the one-line error of each fault."""

import json
from math import prod
from pathlib import Path

import pytest
import yaml
from snakemake.io import WILDCARD_REGEX

from lowrank_bench.config import load_config
from lowrank_bench.config.compose import overrides_of
from lowrank_bench.errors import LowRankError
from lowrank_bench.methods import methods_for
from lowrank_bench.plan.grid import make_plan
from lowrank_bench.report.names import label_text
from lowrank_bench.stages.experiment import Experiment

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def fault(conf, *overrides):
    with pytest.raises(LowRankError) as caught:
        make_plan(load_config(conf, overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_plans(name):
    config = load_config(CONF, [f"experiment={name}"])
    plan = make_plan(config)
    assert config.name == name
    networks, grid = 0, 0  # every network runs on the tasks of its kind with the methods for it
    for model in config.model.values():
        tasks = sum(task.network_modality == model.modality for task in config.task.values())
        known = methods_for(config.target_of(model))
        entries = [entry for entry in config.method.values() if entry.name in known]
        cells = sum(
            prod(map(len, [*entry.grid.values(), entry.quantize]))
            * len(entry.compressions or config.compressions)
            for entry in entries
        )
        networks += tasks * len(config.seeds)
        grid += tasks * len(config.seeds) * cells
    cells = [cell for job in plan.evaluate for cell in job.cells()]
    assert len(cells) == grid * (0 in config.finetune_epochs)
    after = [cell for job in plan.finetune for cell in job.cells()]
    assert len(after) == (grid + networks) * sum(epochs != 0 for epochs in config.finetune_epochs)
    assert len({cell.key for cell in plan.cells()}) == len(cells) + len(after) + networks


def test_all_epochs_means_as_many_as_each_network_was_trained_for():
    words = ["experiment=alds_cifar", "model=[resnet20,vgg16_bn]", "finetune_epochs=[all]"]
    cells = [c for job in make_plan(load_config(CONF, words)).finetune for c in job.cells()]
    assert {(c.checkpoint.model, c.finetune_epochs) for c in cells} == {
        ("resnet20", 182),
        ("vgg16_bn", 300),
    }


@pytest.mark.parametrize("group", ["model", "task", "method"])
def test_each_member_is_keyed_by_its_own_name(group):
    for file in (CONF / group).glob("*.yaml"):
        assert file.read_text().startswith(f"# @package {group}.{file.stem}\n"), file


def test_default_is_quickstart():
    assert load_config(CONF).name == "quickstart"


def test_overrides_reach_nested_keys_and_groups():
    config = load_config(
        CONF, ["method=[svd,lp]", "method.lp.grid.p=[1]", "model.quick_bert.recipe.epochs=7"]
    )
    assert config.method["lp"].grid == {"p": [1]}
    assert config.model["quick_bert"].recipe.epochs == 7


def test_another_precision_changes_the_keys_of_predictions_and_of_nothing_else():
    plans = [
        make_plan(load_config(CONF, overrides))
        for overrides in ((), ["evaluation.precision=fp32"], ["evaluation.precision=bf16"])
    ]
    plain, same, rough = ([cell.key for cell in plan.cells()] for plan in plans)
    assert plain == same
    assert not set(plain) & set(rough)
    first, last = (
        {point.key for job in p.checkpoint for point in job.checkpoints} for p in plans[1:]
    )
    assert first == last


def test_snakemake_settings_become_overrides():
    settings = {"experiment": "quickstart", "seeds": [0, 1], "overrides": ["method.lp.grid.p=[1]"]}
    assert overrides_of(settings) == [
        "experiment=quickstart",
        "seeds=[0,1]",
        "method.lp.grid.p=[1]",
    ]
    assert overrides_of({"overrides": "seeds=[3]"}) == ["seeds=[3]"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("experiment=quickstrat", ["experiment", "quickstrat", "did you mean 'quickstart'"]),
        ("model=[quick_brt]", ["model", "quick_brt", "did you mean 'quick_bert'"]),
        ("task=[colla]", ["task", "colla", "did you mean 'cola'"]),
        ("method=[svd,lpp]", ["method", "lpp", "did you mean 'lp'"]),
        ("compresions=[0.5]", ["compresions", "override", "did you mean 'compressions'"]),
        ("recipe.epoch=2", ["recipe.epoch", "did you mean 'epochs'"]),
        ("model.quick_bert.tilte=x", ["model.quick_bert.tilte", "did you mean 'title'"]),
        ("model.quick_bert.source.sed=1", ["source.sed", "did you mean 'seed'"]),
        ("compressions=[1.0]", ["compressions.0", "1.0", "less than 1"]),
        ("compressions=[0.0]", ["compressions.0", "greater than 0"]),
        ("compressions=[0.5,0.5]", ["compressions", "twice"]),
        ("seeds=[]", ["seeds", "at least 1"]),
        ("method.lp.grid.p=[0.5]", ["'lp'", "p = 0.5", "from 1 to 16, or inf"]),
        ("method.lp.grid.p=[17]", ["'lp'", "p = 17", "from 1 to 16, or inf"]),
        ("method.lp.grid={q: [1]}", ["'lp'", "'q'", "known: p"]),
        ("method.lp.params={p: 1}", ["method.lp", "'p'", "both params and grid"]),
        ("method.lp.grid.p=[1,1.0]", ["grid", "twice"]),
        ("+method.twice={name: svd}", ["method.twice runs svd", "method.svd does already"]),
        ("select={svd: k}", ["select.svd", "method.svd.grid.k"]),
        ("statistics.baseline=foo", ["'foo'", "lrank, messi"]),
        ("checkpoints=published", ["published", "quick_bert"]),
        ("nonsense", ["nonsense", "key=value"]),
        ("compressions.x=0.5", ["compressions.x"]),
        ("compressions=[0.5,nan]", ["compressions.1", "finite"]),
        ("recipe.max_grad_norm=inf", ["recipe.max_grad_norm", "finite"]),
        ("recipe.learning_rate=inf", ["recipe.learning_rate", "finite"]),
        ("recipe.weight_decay=inf", ["recipe.weight_decay", "finite"]),
        ("recipe.epochs=true", ["recipe.epochs", "number"]),
        ("finetune_epochs=[false]", ["finetune_epochs.0"]),
        ("seeds=[-1]", ["seeds.0", "greater than or equal to 0"]),
        ("statistics.resamples=1000000000000", ["statistics.resamples", "100000"]),
        ("task.quick_cola.labels=1000000000", ["quick_cola.labels", "from 2 to 100,000"]),
        ("task.quick_cola.labels=-1", ["quick_cola.labels", "from 2 to 100,000"]),
        ("task.quick_cola.labels=true", ["quick_cola.labels", "from 2 to 100,000"]),
        ("task.quick_cola.labels=[a,a]", ["quick_cola.labels", "twice"]),
        ("task.quick_cola.train.split='train[:5]'", ["train.split", "letters"]),
        ("task.quick_cola.columns=[label]", ["columns", "labels; take it out"]),
        ("store=/dev/null", ["store", "not a folder"]),
        ("store=''", ["store", "blank"]),
        ("name=--help", ["name", "does not begin with -"]),
        (f"name={'x' * 5000}", ["name", "at most 100"]),
        ("hydra.run.dir=x", ["hydra.run.dir", "take it out"]),
        ("++hydra.job.name=x", ["hydra.job.name", "take it out"]),
        ("title={a}", ["title={a}", "quotes"]),
        ("title=???", ["title", "Missing"]),
    ],
)
def test_a_wrong_override_is_one_clear_line(override, parts):
    message = fault(CONF, override)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("split", ["validation[a:b]", "validation[", "../../x", "validation[5:2]"])
def test_a_wrong_split_is_one_clear_line(split):
    entry = f"{{split: '{split}', metrics: [accuracy]}}"
    assert "evaluation.0.split" in fault(CONF, f"task.quick_cola.evaluation=[{entry}]")


def test_a_split_or_a_metric_that_is_listed_twice_is_refused():
    entry = "{split: validation, metrics: [accuracy]}"
    assert "twice" in fault(CONF, f"task.quick_cola.evaluation=[{entry},{entry}]")
    entry = "{split: validation, metrics: [accuracy,accuracy]}"
    assert "twice" in fault(CONF, f"task.quick_cola.evaluation=[{entry}]")


@pytest.mark.parametrize("title", ["{a}", "a {b} {{c}}", "</script>"])
def test_titles_with_braces_reach_snakemake_as_they_are(title):
    words = [f"title='{title}'", "model=[quick_bert]", "task=[quick_cola]", "method=[svd]"]
    experiment = Experiment(load_config(CONF, words), words)
    assert experiment.config.title == title
    assert json.loads(experiment.overrides_json) == words
    assert json.loads(experiment.title_json) == title
    shown = [experiment.overrides_json, experiment.settings, experiment.title_json]
    for text in (*shown, label_text(title)):  # the report holds them in a script
        assert not WILDCARD_REGEX.search(text)
        assert "</script" not in text


@pytest.mark.parametrize(
    ("file", "key", "value", "parts"),
    [
        ("model/quick_bert.yaml", "titel", "x", ["model.quick_bert.titel", "'title'"]),
        ("task/quick_cola.yaml", "lables", [], ["task.quick_cola.lables", "'labels'"]),
        ("experiment/quickstart.yaml", "compresion", [0.1], ["'compresion'", "'compressions'"]),
        ("config.yaml", "sedes", [0], ["'sedes'", "'seeds'"]),
    ],
)
def test_an_unknown_key_names_its_file_and_the_nearest(conf, file, key, value, parts):
    path = conf / file
    path.write_text(path.read_text() + yaml.safe_dump({key: value}))
    message = fault(conf)
    for part in [*parts, f"conf/{file}", "did you mean"]:
        assert part in message, message


def test_a_missing_key_is_named(conf):
    path = conf / "model" / "quick_bert.yaml"
    path.write_text("# @package model.quick_bert\ntitle: x\n")
    assert "'model.quick_bert.source' is missing in conf/model/quick_bert.yaml" in fault(conf)


def test_a_file_that_is_not_yaml_is_named_with_its_line(conf):
    (conf / "method" / "lp.yaml").write_text("# @package method.lp\nname: lp\n  grid: 1\n")
    message = fault(conf)
    assert "conf/method/lp.yaml" in message
    assert "line 3" in message


def test_a_fault_in_a_group_is_blamed_on_the_override_that_made_it():
    chosen, spoiled = "model=[quick_bert]", "model.quick_bert.source.architecture=gpt"
    assert f"the override {spoiled!r}" in fault(CONF, chosen, spoiled)


def test_a_fault_in_a_file_is_not_blamed_on_the_choice_of_the_file(conf):
    path = conf / "model" / "quick_bert.yaml"
    path.write_text(path.read_text() + "titel: x\n")
    assert "conf/model/quick_bert.yaml" in fault(conf, "model=[quick_bert]")


def test_an_experiment_s_settings_for_tasks_that_are_not_selected_are_ignored():
    config = load_config(CONF, ["experiment=minilm_glue", "task=[rte]"])
    assert list(config.task) == ["rte"]
    kept = load_config(CONF, ["experiment=minilm_glue", "task=[sst2]"])
    assert kept.task["sst2"].train.limit == 20000


def test_the_announcement_counts_and_multiplies_nothing_that_is_no_product(
    tmp_path, monkeypatch, capsys
):
    words = ["experiment=quickstart", "finetune_epochs=[0,2]", "select={messi: k}"]
    words += ["evaluation.train_rows=100"]
    monkeypatch.chdir(tmp_path)
    for some in ([], words):
        experiment = Experiment(load_config(CONF, some), some)
        experiment.announce(1)
        said = capsys.readouterr().err
        jobs = (*experiment.plan.evaluate, *experiment.plan.finetune)
        count = sum(len(job.cells()) for job in jobs)
        assert f"{count:,} cells (5 networks, 10 tasks, 1 seed, 25 methods, 5 rates" in said
        assert "=" not in said
        assert " x " not in said
