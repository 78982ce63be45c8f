"""What shrinks an update: each stage one file with both halves, composed in a declared order."""
