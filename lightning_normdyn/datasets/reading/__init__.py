"""Reading single files: text lines, JSON lines, Parquet, archives, pictures."""
