//! What a run tells people and files: progress, history, tables.
