"""Low rank layer by layer: any approximation, any rule to divide the budget."""
