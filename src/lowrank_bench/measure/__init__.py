"""What networks cost when they run: seconds, memory, bytes on disk."""
