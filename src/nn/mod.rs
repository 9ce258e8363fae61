//! Layers: forward and backward side by side, built only from ops.
//!
//! A layer holds its weights as views; where a weight is trained, a view of the flat gradient buffer lies beside it and
//! `backward` adds to it. What backward needs of forward is returned by forward and handed to backward by the model.

pub mod batch_norm;
pub mod block;
pub mod convolution;
pub mod embeddings;
pub mod linear;
pub mod low_rank;
pub mod norm;
pub mod residual_layer;
pub mod self_attention;
pub mod widened;

pub use batch_norm::{BatchNorm, Together};
pub use block::{Block, BlockKept, Mlp, Tokens};
pub use convolution::{Convolution, Stem, StemKept};
pub use embeddings::Embeddings;
pub use linear::{Linear, Weight};
pub use low_rank::LowRank;
pub use norm::LayerNorm;
pub use residual_layer::{ResidualKept, ResidualLayer, Wanted};
pub use self_attention::{Below, Projection, SelfAttention};
pub use widened::Widened;
