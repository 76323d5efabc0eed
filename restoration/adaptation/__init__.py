"""A network that learns from the clip it restores (after DADeblur and SelfHVD)."""
