"""DINO itself: the step, and all that takes part in it (paper, section 3)."""
