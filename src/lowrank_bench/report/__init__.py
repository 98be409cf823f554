"""Tables and figures of one experiment, made from its scores and their summary."""
