//! Flat parameters and what moves them.
