"""From attention and keys to masks of objects, at the size of the photo."""
