"""Photos and videos that a network looks at whole: reading them, and what a run leaves of each."""
