"""Multi-frame fusion: frames take detail from sharper neighbours."""
