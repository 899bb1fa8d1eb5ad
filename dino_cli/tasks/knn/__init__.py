"""`dino knn`: `run` votes, `queries` brings what is asked about."""
