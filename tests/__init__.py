"""The tests. They talk to real servers on loopback; only the clock is handed in."""
