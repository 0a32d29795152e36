"""A status's attachments: fetched, decoded, classified."""
