"""`dino knn`: `queries` asks, `search` finds neighbours in the `bank`, `answers` tells."""
