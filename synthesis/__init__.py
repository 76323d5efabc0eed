"""Blur as cameras make it: pairs of blurry and sharp frames from sharp footage."""
