"""The one loop, and the contract of what it runs."""
