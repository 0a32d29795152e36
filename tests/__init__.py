"""The tests. They use real servers on loopback; only the clock is passed in."""
