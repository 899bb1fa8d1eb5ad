"""`dino eval segmentation`: masks against label maps (paper, section 4.2.2)."""
