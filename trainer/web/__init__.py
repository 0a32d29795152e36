"""The only way to the web: connections with deadlines and address checks, and fetching over them."""
