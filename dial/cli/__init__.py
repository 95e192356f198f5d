"""The `dial` command."""
