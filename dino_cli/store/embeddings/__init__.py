"""Feature files: what `dino embed` leaves, and the blocks that it is made of on the way."""
