"""The measured study: a cascade and its rivals on the clock."""
