"""Sample clean latents: windows, tiles, solvers, noise."""
