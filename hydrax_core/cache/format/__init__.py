"""What lies on disk: folder, manifest, array files, additional data, checksums."""
