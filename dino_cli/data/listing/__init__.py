"""Which images: files, folders, lists, globs, shards, frames of videos."""
