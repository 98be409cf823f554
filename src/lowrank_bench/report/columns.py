"""Columns of the result tables that figures and tables show.

The report reads parquet files, not the scoring code, and names here what it needs of them; a test
checks the names and their types against what scoring writes.
"""

TEXT = (
    *("experiment", "model", "task", "split", "method", "params", "label", "data_used"),
    *("target", "budget", "metric", "status", "reason", "note", "device"),
    "left_out",
)
NUMBERS = (
    *("compression", "achieved_compression", "seed", "finetune_epochs", "value", "dense_value"),
    *("drop", "drop_ci_low", "drop_ci_high", "drop_seed_std", "n_examples", "n_seeds"),
    *("vs_svd", "vs_svd_ci_low", "vs_svd_ci_high", "vs_svd_p"),
    *("rel_error_fro", "rel_error_l1", "parameters_dense", "parameters_kept"),
    *("macs_dense", "macs_kept", "network_parameters_dense"),
)
