"""The file system beneath the roots, by descriptors."""
