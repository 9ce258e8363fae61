//! A batch from its first picture to its last one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Partners;
use super::queue::Planned;
use crate::data::Draw;
use crate::data::transform::StagedSample;
use crate::error::Error;
use crate::ops::parts::{Part, Whole, parts};
use crate::ops::staging::Staging;

/// A batch in the making.
pub(super) struct Unfinished {
    pub epoch: u32,
    pub draws: Vec<Draw>,
    own: Option<Range<usize>>,
    /// Of draws that nobody has taken, the next one last.
    pub parts: Vec<Destination>,
    /// Read ahead, until they are taken.
    pub files: Vec<Option<Bytes>>,
    values: Values,
    /// Of each draw that is decoded: its label, and what a device needs of it.
    pub made: Vec<Option<(u32, Option<StagedSample>)>>,
    pub missing: usize,
    /// What makes the batch impossible: that of the first row.
    pub failure: Option<(usize, Error)>,
}

enum Values {
    Floats(Whole),
    Staged(Arc<Staging>),
}

/// Where a picture goes: its sample, or what a device needs to make it.
pub(super) enum Destination {
    Sample(Part),
    Staging(Arc<Staging>),
}

/// A batch whose pictures are all decoded or skipped.
pub(super) struct Finished {
    pub epoch: u32,
    pub labels: Vec<u32>,
    pub samples: Vec<u64>,
    pub contents: Contents,
    pub partners: Option<Partners>,
}

pub(super) enum Contents {
    /// `[samples, sample_len]`.
    Floats(Vec<f32>),
    Staged(Box<Staging>, Vec<StagedSample>),
}

impl Unfinished {
    /// To be made in `staging`, or as samples of `sample_len` values.
    pub fn begin(planned: Planned, sample_len: usize, staging: Option<Staging>) -> Unfinished {
        let Planned { micro_batch, files, .. } = planned;
        let draws = micro_batch.draws;
        let (values, mut parts) = match staging {
            None => {
                let (values, parts) = parts(draws.len(), sample_len);
                let parts: Vec<Destination> = parts.into_iter().map(Destination::Sample).collect();
                (Values::Floats(values), parts)
            }
            Some(staging) => {
                let staging = Arc::new(staging);
                let part = || Destination::Staging(staging.clone());
                let parts = draws.iter().map(|_| part()).collect();
                (Values::Staged(staging), parts)
            }
        };
        parts.reverse();
        Unfinished {
            epoch: micro_batch.epoch,
            parts,
            files,
            values,
            made: draws.iter().map(|_| None).collect(),
            missing: draws.len(),
            failure: None,
            draws,
            own: micro_batch.own,
        }
    }

    /// Closes the gaps that skipped pictures left.
    pub fn assemble(self, sample_len: usize) -> Finished {
        let batch = self;
        let made = |at: usize| batch.made[at].is_some();
        let contents = match batch.values {
            Values::Floats(values) => {
                let mut values = values.into_vec();
                for (to, from) in (0..batch.made.len()).filter(|&at| made(at)).enumerate() {
                    if to < from {
                        let from = from * sample_len;
                        values.copy_within(from..from + sample_len, to * sample_len);
                    }
                }
                values.truncate(batch.made.iter().flatten().count() * sample_len);
                Contents::Floats(values)
            }
            Values::Staged(staging) => {
                let staging = Arc::into_inner(staging).expect("all parts are back");
                let staged = batch.made.iter().flatten().filter_map(|(_, staged)| *staged).collect();
                Contents::Staged(Box::new(staging), staged)
            }
        };
        let draws = batch.draws.iter().zip(&batch.made);
        let (samples, labels) = draws
            .filter_map(|(draw, made)| made.map(|(label, _)| (draw.name(), label)))
            .unzip();
        Finished {
            epoch: batch.epoch,
            labels,
            samples,
            contents,
            partners: batch.own.map(|own| partners(&batch.made, own)),
        }
    }
}

/// Partners among what could be read: neighbours, first and second, third and fourth, and so on.
fn partners<T>(made: &[Option<T>], own: Range<usize>) -> Partners {
    let read_before = |place: usize| made[..place].iter().flatten().count();
    let of = (0..made.len()).filter(|place| made[*place].is_some()).map(|place| {
        let is_there = made.get(place ^ 1).is_some_and(Option::is_some);
        is_there.then(|| read_before(place ^ 1))
    });
    Partners {
        of: of.collect(),
        own: read_before(own.start)..read_before(own.end),
    }
}
