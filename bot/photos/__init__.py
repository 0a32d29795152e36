"""A status's attachments: fetched, decoded in child processes, classified."""
