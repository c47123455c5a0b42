"""What earlier commits wrote, and nodes of an earlier commit beside those of today (docs/compatibility.md)."""
