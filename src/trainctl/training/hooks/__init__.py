"""What watches the loop, one a file."""
