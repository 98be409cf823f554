"""Images: networks for small ones, decoding, training and prediction, as the pipeline asks."""
