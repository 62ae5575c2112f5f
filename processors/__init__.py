"""What can happen to rows: one file per capability."""
