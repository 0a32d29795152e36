"""Which stored photos are worth a second look: suspects, what gives labels away, and what would help most."""
