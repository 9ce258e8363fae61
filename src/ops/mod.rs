//! Primitives: one file each, every device behind one function.
