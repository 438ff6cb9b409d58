"""Tools, suites, sources, and verified references as parquet."""
