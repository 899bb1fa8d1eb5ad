"""Networks: what they are made of, and what can be asked of them."""
