"""Tables whose rows are not used alike: blocks, sparse sums, and the budget between them."""
