//! Layers: forward and backward side by side, built only from ops.
