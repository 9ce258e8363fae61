//! What a computation consists of: time, operations and bytes by part of a model, for `dtrain bench step`.
//!
//! Each thread counts the operations and bytes of the ops that it calls; [`total`] is read before and after something. Layers
//! say which part they are about to compute ([`part`]), and a part within a part is counted for itself alone. Unless
//! [`measure`] runs on the same thread, that costs a few nanoseconds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};
use std::time::Instant;

use candle_core::Device;

use crate::error::Result;

/// A kind of layer, in the order in which a table lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Embeddings,
    LayerNorm,
    QkvProduct,
    Adapters,
    Attention,
    Projection,
    Mlp,
    Gelu,
    Convolution {
        side: usize,
        stride: usize,
    },
    BatchNorm,
    Pooling,
    Classifier,
    Loss,
    Clipping,
    AdamW,
    /// What no layer has claimed.
    Rest,
}

/// What was done for a part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub seconds: f64,
    /// Of matrix products, a multiply-add being two.
    pub operations: f64,
    /// Read and written by ops, each operand once for each op; on a GPU they are not counted.
    pub bytes: f64,
}

/// As long as it lives, what this thread computes is counted for a part.
#[must_use]
pub struct UnderWay {
    before: Option<Part>,
}

struct Meter {
    device: Device,
    part: Part,
    /// When the part was begun, and what had been counted by then.
    since: Instant,
    counted: Work,
    work: BTreeMap<Part, Work>,
}

thread_local! {
    static TOTAL: Cell<Work> = const { Cell::new(Work { seconds: 0.0, operations: 0.0, bytes: 0.0 }) };
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

impl Part {
    pub fn name(self) -> String {
        match self {
            Part::Embeddings => "embeddings".into(),
            Part::LayerNorm => "layer norm".into(),
            Part::QkvProduct => "qkv product".into(),
            Part::Adapters => "adapters".into(),
            Part::Attention => "attention".into(),
            Part::Projection => "projection".into(),
            Part::Mlp => "MLP products".into(),
            Part::Gelu => "GELU".into(),
            Part::Convolution { side, stride: 1 } => format!("convolution {side}x{side}"),
            Part::Convolution { side, stride } => format!("convolution {side}x{side}/{stride}"),
            Part::BatchNorm => "batch norm, ReLU, sums".into(),
            Part::Pooling => "pooling".into(),
            Part::Classifier => "classifier".into(),
            Part::Loss => "loss".into(),
            Part::Clipping => "clipping, zeroing".into(),
            Part::AdamW => "AdamW".into(),
            Part::Rest => "the rest".into(),
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.seconds += other.seconds;
        self.operations += other.operations;
        self.bytes += other.bytes;
    }
}

impl Sub for Work {
    type Output = Work;

    fn sub(self, other: Work) -> Work {
        Work {
            seconds: self.seconds - other.seconds,
            operations: self.operations - other.operations,
            bytes: self.bytes - other.bytes,
        }
    }
}

/// What `body` does on this thread, by part. On a GPU each part is waited for, which makes the whole slower.
pub fn measure<R>(device: &Device, body: impl FnOnce() -> Result<R>) -> Result<(R, BTreeMap<Part, Work>)> {
    device.synchronize()?;
    let meter = Meter {
        device: device.clone(),
        part: Part::Rest,
        since: Instant::now(),
        counted: total(),
        work: BTreeMap::new(),
    };
    METER.set(Some(meter));
    let result = body();
    switch(Part::Rest);
    let work = METER.take().map(|meter| meter.work).unwrap_or_default();
    Ok((result?, work))
}

/// Counts what follows for `part`, until the value that is returned is dropped.
pub fn part(part: Part) -> UnderWay {
    UnderWay { before: switch(part) }
}

/// What this thread has done since its start; its time is not counted.
pub fn total() -> Work {
    TOTAL.get()
}

/// Does `body`, whose ops are not counted here; and what they were.
pub fn aside<R>(body: impl FnOnce() -> R) -> (R, Work) {
    let before = total();
    let result = body();
    let work = total() - before;
    TOTAL.set(before);
    (result, work)
}

/// Counts what was done without its ops being called.
pub fn add(work: Work) {
    let mut total = TOTAL.get();
    total += work;
    TOTAL.set(total);
}

/// `count` operations of products.
pub(super) fn operations(count: usize) {
    let mut total = TOTAL.get();
    total.operations += count as f64;
    TOTAL.set(total);
}

/// `count` bytes read or written.
pub(super) fn bytes(count: usize) {
    let mut total = TOTAL.get();
    total.bytes += count as f64;
    TOTAL.set(total);
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            switch(before);
        }
    }
}

/// The part that was under way until now; None if nothing is measured.
fn switch(to: Part) -> Option<Part> {
    METER.with_borrow_mut(|meter| {
        let meter = meter.as_mut()?;
        // What goes wrong on a GPU is an error of the op that asks next.
        let _ = meter.device.synchronize();
        let (now, counted) = (Instant::now(), total());
        *meter.work.entry(meter.part).or_default() += Work {
            seconds: (now - meter.since).as_secs_f64(),
            ..counted - meter.counted
        };
        (meter.since, meter.counted) = (now, counted);
        Some(std::mem::replace(&mut meter.part, to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_within_a_part_is_counted_for_itself() {
        operations(1000);
        let ((), work) = measure(&Device::Cpu, || {
            let _mlp = part(Part::Mlp);
            operations(1);
            {
                let _norm = part(Part::LayerNorm);
                operations(10);
                bytes(7);
            }
            operations(100);
            Ok(())
        })
        .unwrap();
        let counted = |part| work.get(&part).map(|work| (work.operations, work.bytes));
        assert_eq!(counted(Part::Mlp), Some((101.0, 0.0)));
        assert_eq!(counted(Part::LayerNorm), Some((10.0, 7.0)));
        assert_eq!(counted(Part::Rest), Some((0.0, 0.0)));
        assert!(work.values().all(|work| work.seconds >= 0.0));
        // Nothing is left behind, not even by an error.
        assert!(measure(&Device::Cpu, || Device::new_metal(0).map(|_| ()).map_err(Into::into)).is_err());
        assert!(METER.with_borrow(Option::is_none));
    }
}
