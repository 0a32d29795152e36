"""Fetches from the web, over connections with deadlines and address checks; no other module does."""
