"""What is known about a departure before it leaves: feature views of the aviation domain."""
