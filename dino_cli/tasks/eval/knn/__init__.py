"""`dino eval knn`: the k-NN table (paper, tables 2 and 3)."""
