"""What the command line offers: each tool is a package or a file here, and none is imported by the library itself."""
