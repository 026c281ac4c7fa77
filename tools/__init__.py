"""The scripts that take the pictures of these pages."""
