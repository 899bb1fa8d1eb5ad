"""One use case per file: config in, result out; nothing is printed here."""
