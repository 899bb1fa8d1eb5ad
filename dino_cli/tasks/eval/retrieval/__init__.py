"""`dino eval retrieval`: landmarks, or any folder with classes (paper, table 3)."""
