"""Charts, pictures and the page of a training run."""
