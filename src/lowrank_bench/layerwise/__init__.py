"""Low rank layer by layer: any approximation, any division of one budget."""
