"""From stored predictions to the result tables: metrics, intervals, paired tests, averages."""
