"""Principal components: as colours, as a plane to look at, and for whitening."""
