"""Tar and Parquet shards, local or on a bucket: their index, their bounded cache, one sample of them."""
