"""The command mptpn: what it takes, what it does with many files, and what it tells."""
