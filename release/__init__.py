"""How a release is made: `make lock`, `make audit`, `make release` (docs/releasing.md). Nothing of it is installed."""
