//! From shards to normalized batches.
