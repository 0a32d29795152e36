"""From a mention to its posted reply: stream, catch-up, inbox worker, answer, and cleanup afterwards."""
