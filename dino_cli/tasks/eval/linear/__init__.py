"""`dino eval linear`: a linear classifier on frozen features (paper, table 2)."""
