"""Image files and the image formats of the standard datasets."""
