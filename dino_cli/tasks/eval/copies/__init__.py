"""`dino eval copies`: the originals of altered copies, as on Copydays (paper, table 4)."""
