"""Fetches from the web, with deadlines and address checks, and serves pages on local ports; no other module does."""
