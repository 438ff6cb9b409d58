"""The tools the suites use: plain typed functions, one self-contained module a theme (only the standard library)."""
