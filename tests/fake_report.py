"""Fake scores and their summary, with the columns that the score step writes."""

import itertools
import json

import numpy as np
import pandas as pd

from lowrank_bench.score.schema import SCORES, SUMMARY

NOTE = "synthetic: made-up sentences, 50 % of a_b"
GLUE = {"cola": ["matthews_correlation"], "mrpc": ["f1", "accuracy"], "wnli": ["accuracy"]}
METHODS = {"svd": [{}], "lp": [{"p": 1.0}, {"p": 1.5}, {"p": 10.0}], "fwsvd_x": [{}]}
KEYS = ["model", "task", "label", "finetune_epochs", "compression", "metric"]
MEANS = ["value", "dense_value", "drop", "vs_svd"]
ENDS = ["drop_ci_low", "drop_ci_high", "vs_svd_ci_low", "vs_svd_ci_high"]


def fake_scores(models=("bert", "net_2"), tasks=GLUE, methods=METHODS, budgets=(0.28, 0.43, 0.6),
                epochs=(0,), seeds=(0, 1), note=NOTE, lost=lambda row: False):  # fmt: skip
    rng = np.random.default_rng(7)
    rows = []
    variants = [("dense", {})] + [(name, p) for name, params in methods.items() for p in params]
    for model, task, (method, params), seed, epoch in itertools.product(
        models, tasks, variants, seeds, epochs
    ):
        for budget in budgets if method != "dense" else [0.0]:
            for metric in tasks[task]:
                drop = 0.0 if method == "dense" else 10 * budget**2 + rng.normal()
                shown = ", ".join(f"{key}={value:g}" for key, value in params.items())
                row = {"experiment": "toy", "model": model, "task": task, "split": "validation"}
                row |= {"method": method, "params": json.dumps(params), "target": "embedding"}
                row |= {"label": f"{method} ({shown})" if shown else method, "metric": metric}
                row |= {"compression": budget, "achieved_compression": budget + 0.004}
                row |= {"seed": seed, "finetune_epochs": epoch, "note": note, "status": "ok"}
                row |= {"reason": "", "n_examples": 277, "dense_value": 80.0}
                row |= {"value": 80.0 - drop, "drop": drop, "vs_svd_p": rng.random() / 5}
                row |= {"rel_error_fro": budget + rng.normal() / 20, "rel_error_l1": rng.random()}
                row |= {"parameters_dense": 400, "network_parameters_dense": 563}
                rows.append(row | _spread(drop))
                if lost(row):
                    gone = [*MEANS, *ENDS, "vs_svd_p", "rel_error_fro", "rel_error_l1"]
                    rows[-1] |= dict.fromkeys(gone, np.nan)
                    rows[-1] |= {"status": "failed", "reason": "no rank fits"}
    scores = pd.DataFrame(rows, columns=list(SCORES))
    svd = scores[scores["method"] == "svd"].drop(columns="label")
    key = ["model", "task", "finetune_epochs", "compression", "metric", "seed"]
    base = scores[key].merge(svd[[*key, "value"]], "left", key)["value"]
    scores["vs_svd"] = (scores["value"] - base).where(~scores["method"].isin(["dense", "svd"]))
    scores["vs_svd_ci_low"], scores["vs_svd_ci_high"] = scores["vs_svd"] - 1, scores["vs_svd"] + 1
    return scores


def _spread(drop):
    return {"drop_ci_low": drop - 1.3, "drop_ci_high": drop + 1.1}


def fake_summary(scores, averages=True):
    ok = scores[scores["status"] == "ok"]
    same = [name for name in SUMMARY if name in SCORES and ok[name].dtype == object]
    same = [*[n for n in same if n not in MEANS + ENDS], "finetune_epochs", "compression"]
    numbers = [*MEANS, *ENDS, "achieved_compression", "vs_svd_p", "n_examples"]
    groups = ok.groupby(same, sort=False)
    summary = groups[numbers].mean().assign(n_seeds=groups["seed"].nunique()).reset_index()
    if averages and not summary.empty:
        inner = [n for n in same if n not in ("task", "metric", "split", "note")]
        for name, skip in (("glue", ""), ("glue_no_wnli", "wnli")):
            part = summary[summary["task"] != skip]
            mean = part.groupby([*inner, "task"], sort=False)[[*numbers, "n_seeds"]].mean()
            mean = mean.groupby(inner, sort=False).mean().reset_index()
            mean = mean.assign(task=name, metric="average", split="", note=f"{NOTE}; {name}")
            summary = pd.concat([summary, mean], ignore_index=True)
    return summary.reindex(columns=list(SUMMARY))


def failed_cell(row):
    return row["model"] == "bert" and row["label"] == "lp (p=1)" and row["compression"] == 0.43
