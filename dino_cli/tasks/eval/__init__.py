"""`dino eval …`: one module per evaluation: a model and a data set in, figures out."""
