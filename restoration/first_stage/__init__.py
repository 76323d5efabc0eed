"""A first stage: another network whose result of each frame is one more candidate of fusion."""
