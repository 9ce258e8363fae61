//! Models in HF's layout: explicit forward and backward walks over nn layers.
