"""What lies on disk: records, run directories, hashes, video files and paths."""
