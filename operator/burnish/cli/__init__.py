"""The `burnish` command."""
