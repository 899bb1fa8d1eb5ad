"""`dino eval video`: a first mask carried through a video (paper, table 5)."""
