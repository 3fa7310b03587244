"""A wall of notes: pages, a WebSocket with Channels, and a worker that reads the notes."""
