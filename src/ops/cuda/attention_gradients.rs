//! Where attention's gradients go: side by side in fresh memory, as the products that follow want to read them.

use super::attention::{Given, in_vectors};
use super::{NULL, Output};
use crate::error::Result;
use crate::ops::attention::{AttentionGradient, Wanted};
use crate::ops::launch::AttentionShape;

/// Where the gradient of one operand goes.
pub(super) struct Place {
    pub address: u64,
    /// (image, token)
    pub strides: [u64; 2],
}

/// Fresh memory for gradients, side by side as AttentionGradient wants them.
pub(super) struct Gradients {
    /// One buffer for all; or the queries', then that of keys and values.
    buffers: Vec<Output>,
    pub q: Place,
    pub k: Option<Place>,
    pub v: Place,
}

impl Gradients {
    pub fn new(given: &Given, wanted: Wanted) -> Result<Self> {
        let AttentionShape { b, sq, s, .. } = given.shape;
        let (d, bytes) = (given.width(), given.dtype().size_in_bytes());
        let buffer = |rows: usize, parts: usize| Output::new(given.gpu, b * rows * parts * d, given.dtype());
        // Part `which` of rows that hold `parts` gradients.
        let place = |buffer: &Output, which: usize, parts: usize, rows: usize| Place {
            address: buffer.address() + (which * d * bytes) as u64,
            strides: [(rows * parts * d) as u64, (parts * d) as u64],
        };
        Ok(match wanted {
            Wanted::QueryKeyValue if sq == s => {
                let all = buffer(s, 3)?;
                let [q, k, v] = [0, 1, 2].map(|which| place(&all, which, 3, s));
                Gradients {
                    buffers: vec![all],
                    q,
                    k: Some(k),
                    v,
                }
            }
            Wanted::QueryKeyValue => {
                let (q, kv) = (buffer(sq, 1)?, buffer(s, 2)?);
                Gradients {
                    q: place(&q, 0, 1, sq),
                    k: Some(place(&kv, 0, 2, s)),
                    v: place(&kv, 1, 2, s),
                    buffers: vec![q, kv],
                }
            }
            Wanted::QueryValue => {
                let (q, v) = (buffer(sq, 1)?, buffer(s, 1)?);
                Gradients {
                    q: place(&q, 0, 1, sq),
                    k: None,
                    v: place(&v, 0, 1, s),
                    buffers: vec![q, v],
                }
            }
        })
    }

    pub fn k_address(&self) -> u64 {
        self.k.as_ref().map_or(NULL, |k| k.address)
    }

    /// Do all rows begin where 16 bytes may be moved at once?
    pub fn is_in_vectors(&self) -> bool {
        let places = [Some(&self.q), self.k.as_ref(), Some(&self.v)];
        places
            .into_iter()
            .flatten()
            .all(|place| in_vectors(place.address) && place.strides.iter().all(|stride| stride.is_multiple_of(8)))
    }

    pub fn finish(self, given: &Given) -> AttentionGradient {
        let AttentionShape { b, sq, s, .. } = given.shape;
        let d = given.width();
        let wants_keys = self.k.is_some();
        let mut buffers = self.buffers.into_iter();
        match (buffers.next(), buffers.next()) {
            (Some(q), Some(kv)) if wants_keys => AttentionGradient::Apart {
                dq_bqd: q.into_tensor((b, sq, d)),
                dkv_bsd: kv.into_tensor((b, s, 2 * d)),
            },
            (Some(q), Some(v)) => AttentionGradient::WithoutKey {
                dq_bqd: q.into_tensor((b, sq, d)),
                dv_bsd: v.into_tensor((b, s, d)),
            },
            (Some(all), None) => AttentionGradient::Together {
                dqkv_bsd: all.into_tensor((b, s, 3 * d)),
            },
            (None, _) => unreachable!("there is always a buffer"),
        }
    }
}
