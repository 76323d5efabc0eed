"""Clips of any length in bounded memory: shots, segments, what frames are left alone."""
