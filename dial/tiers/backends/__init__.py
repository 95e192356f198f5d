"""Other libraries that compute a tier: exports, kept beside it, and the libraries that run them."""
