//! A batch of pictures in one piece of host memory, put together by several threads, which a device takes over in one copy.
//!
//! In front lies what there is once: the normalization, a job for each picture, the labels. Behind it each thread claims
//! room for the tables and pixels of its picture, and for what is erased of its sample, in whichever order pictures are decoded.
//! Every picture has room for a whole sample at least; larger ones share what there is beyond that.
//! For a GPU the memory is page-locked, so that it copies by itself while the processor goes on; where the system refuses
//! that, ordinary memory does the same, slower.

mod host_memory;
mod record;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::Device;

use super::pixels::Erased;
use super::preprocess::{Cut, JOB, Picture, Plan, UNIT, Values};
use crate::error::Result;
use host_memory::HostMemory;

/// What claims begin at a multiple of, in bytes: the unit of tables.
const ALIGNMENT: usize = UNIT * size_of::<u32>();
/// Words of a job that say where its record begins in units (0: nothing is erased), and how many values that has.
const RECORD: usize = 10;
const RECORD_VALUES: usize = 11;

/// How large the batches are that a [`Staging`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagingShape {
    /// Most pictures.
    pub pictures: usize,
    /// Height and width of a sample.
    pub size: (usize, usize),
    /// Bytes for each picture on average, tables included; no less than a sample takes.
    pub bytes: usize,
    /// Of them, those for what is erased of it.
    erasing: usize,
}

/// A picture of a batch that is ready for the device.
#[derive(Clone, Copy, Debug)]
pub struct Staged {
    pub picture: Picture,
    pub cut: Cut,
    job: [u32; JOB],
}

/// Where things lie in a batch that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    pub pictures: usize,
    /// Everything up to here is to be copied.
    pub bytes: usize,
    /// First bytes of the jobs and of the labels; the normalization is in front.
    pub jobs: usize,
    pub labels: usize,
    /// Something is erased of some sample.
    pub erases: bool,
}

pub struct Staging {
    memory: HostMemory,
    shape: StagingShape,
    /// Bytes that are claimed.
    used: AtomicUsize,
    /// Bytes beyond one sample for each picture that are left.
    spare: AtomicUsize,
    #[cfg(feature = "cuda")]
    pub(super) copy: Option<super::cuda::intake::CopyMarks>,
}

/// Room for one picture in a batch.
pub struct Claim<'a> {
    pub tables: &'a mut [u32],
    pub pixels: &'a mut [u8],
    /// Place of the tables in units, and of the pixels in bytes, from the start of the batch.
    place: (usize, usize),
    /// What a job says of the record.
    record: [u32; 2],
}

impl StagingShape {
    /// With room for what can be told of pictures of this many bytes: at least a sample each, in all at most `most` bytes.
    pub fn new(pictures: usize, size: (usize, usize), bytes: usize, most: usize) -> StagingShape {
        let sample = StagingShape::of_sample(size);
        StagingShape {
            pictures,
            size,
            bytes: bytes.min(most / pictures.max(1)).max(sample),
            erasing: 0,
        }
    }

    /// With room for an erased rectangle of so many values in each sample, too; None: nothing is erased.
    pub fn erasing(self, values: Option<usize>) -> StagingShape {
        let erasing = values.map_or(0, record::bytes);
        StagingShape {
            bytes: self.bytes + erasing,
            erasing,
            ..self
        }
    }

    /// With room for the tables of pictures of this many bytes on average, too, a little more than they are.
    pub fn of_pictures(pictures: usize, size: (usize, usize), bytes: usize, most: usize) -> StagingShape {
        let tables = 2 * size_of::<u32>() * Plan::words_of_sample(size);
        StagingShape::new(pictures, size, bytes + bytes / 8 + tables, most)
    }

    /// Bytes of all of it.
    pub fn capacity(&self) -> usize {
        self.front() + self.pictures * self.bytes.next_multiple_of(ALIGNMENT)
    }

    /// What every picture finds room for.
    fn least(&self) -> usize {
        StagingShape::of_sample(self.size) + self.erasing
    }

    fn of_sample(size: (usize, usize)) -> usize {
        (3 * size.0 * size.1).next_multiple_of(ALIGNMENT) + size_of::<u32>() * Plan::words_of_sample(size)
    }

    fn jobs(&self) -> usize {
        size_of::<Values>()
    }

    fn labels(&self) -> usize {
        self.jobs() + self.pictures * JOB * size_of::<u32>()
    }

    fn front(&self) -> usize {
        (self.labels() + self.pictures * size_of::<u32>()).next_multiple_of(ALIGNMENT)
    }
}

impl Staging {
    /// Memory that `device` can copy from.
    pub fn new(shape: StagingShape, device: &Device) -> Result<Staging> {
        Ok(Staging {
            memory: HostMemory::new(shape.capacity(), device),
            shape,
            used: AtomicUsize::new(shape.front()),
            spare: AtomicUsize::new(shape.spare()),
            #[cfg(feature = "cuda")]
            copy: match device.is_cuda() {
                true => Some(super::cuda::intake::CopyMarks::new(device)?),
                false => None,
            },
        })
    }

    /// Waits until the batch is copied; how long the copy took.
    pub fn wait_for_copy(&self) -> Result<Duration> {
        #[cfg(feature = "cuda")]
        if let Some(marks) = &self.copy {
            return marks.wait();
        }
        Ok(Duration::ZERO)
    }

    /// Forgets the batch that is in it, which must have been copied.
    pub fn clear(&mut self) {
        *self.used.get_mut() = self.shape.front();
        *self.spare.get_mut() = self.shape.spare();
    }

    /// Room for the tables of `plan`, this many bytes of pixels and what is erased of the sample. None: there is not so much; for
    /// a sample there always is, if no picture claims twice.
    pub fn claim(&self, plan: &Plan, pixels: usize, erased: Option<&Erased>) -> Option<Claim<'_>> {
        let tables = plan.words() * size_of::<u32>();
        let record = tables + pixels.next_multiple_of(ALIGNMENT);
        let bytes = record + erased.map_or(0, |erased| record::bytes(erased.values.len()));
        let beyond = bytes.saturating_sub(self.shape.least());
        self.spare
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| spare.checked_sub(beyond))
            .ok()?;
        let start = self.used.fetch_add(bytes, Ordering::Relaxed);
        assert!(
            start + bytes <= self.memory.bytes,
            "more pictures than there is room for"
        );
        let place = (start / ALIGNMENT, start + tables);
        // SAFETY: `used` only rises while the batch is borrowed, so no two claims overlap; the range was just found to lie
        // within the memory, which is initialised, lives as long as `self`, and of which only `contents` and `complete` read,
        // which need the batch for themselves. The memory and all sizes are multiples of 16 bytes, so u32 are aligned.
        let (tables, pixels, words) = unsafe {
            let from = self.memory.start.add(start);
            (
                std::slice::from_raw_parts_mut(from.cast(), plan.words()),
                std::slice::from_raw_parts_mut(from.add(tables), pixels),
                std::slice::from_raw_parts_mut(from.add(record).cast(), (bytes - record) / size_of::<u32>()),
            )
        };
        Some(Claim {
            tables,
            pixels,
            place,
            record: match erased {
                Some(erased) => {
                    record::write(erased, words);
                    [((start + record) / ALIGNMENT) as u32, erased.values.len() as u32]
                }
                None => [0; 2],
            },
        })
    }

    /// Puts in front what belongs there, now that all pictures are decoded or skipped.
    pub fn complete(&mut self, staged: &[Staged], labels: &[u32], values: &Values) -> Contents {
        let shape = self.shape;
        assert!(
            staged.len() <= shape.pictures && labels.len() == staged.len(),
            "pictures of a batch"
        );
        let bytes = *self.used.get_mut();
        let front = &mut self.words()[..shape.front() / size_of::<u32>()];
        let (normalization, rest) = front.split_at_mut(shape.jobs() / size_of::<u32>());
        let (jobs, rest) = rest.split_at_mut(shape.pictures * JOB);
        for (to, value) in normalization.iter_mut().zip(values.as_flattened()) {
            *to = value.to_bits();
        }
        for (to, staged) in jobs.chunks_exact_mut(JOB).zip(staged) {
            to.copy_from_slice(&staged.job);
        }
        rest[..labels.len()].copy_from_slice(labels);
        Contents {
            pictures: staged.len(),
            bytes,
            jobs: shape.jobs(),
            labels: shape.labels(),
            erases: staged.iter().any(|staged| staged.job[RECORD] != 0),
        }
    }

    /// All of a batch that is complete.
    pub fn bytes(&mut self, contents: &Contents) -> &[u8] {
        assert!(contents.bytes <= self.memory.bytes);
        // SAFETY: initialised memory that lives as long as `self`, which nobody else borrows.
        unsafe { std::slice::from_raw_parts(self.memory.start, contents.bytes) }
    }

    /// Height and width of a sample.
    pub fn size(&self) -> (usize, usize) {
        self.shape.size
    }

    fn words(&mut self) -> &mut [u32] {
        // SAFETY: as for `bytes`; aligned to 16 bytes.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.cast(), self.memory.bytes / size_of::<u32>()) }
    }
}

impl StagingShape {
    fn spare(&self) -> usize {
        self.capacity() - self.front() - self.pictures * self.least()
    }
}

impl Claim<'_> {
    /// The picture whose pixels and tables were written here; `picture.start` is of no account.
    pub fn staged(self, plan: &Plan, picture: Picture) -> Staged {
        let picture = Picture {
            start: self.place.1,
            ..picture
        };
        plan.write(&picture, self.tables);
        Staged {
            picture,
            cut: *plan.cut(),
            job: self.job(plan, &picture),
        }
    }

    /// A picture that the device has already, at `picture.start` of its memory.
    pub fn staged_elsewhere(self, plan: &Plan, picture: Picture) -> Staged {
        plan.write(&picture, self.tables);
        Staged {
            picture,
            cut: *plan.cut(),
            job: self.job(plan, &picture),
        }
    }

    fn job(&self, plan: &Plan, picture: &Picture) -> [u32; JOB] {
        let mut job = plan.job(picture, self.place.0);
        [job[RECORD], job[RECORD_VALUES]] = self.record;
        job
    }
}

impl Staged {
    /// What is erased of the sample, as it lies in a batch.
    pub fn erased(&self, batch: &[u8]) -> Option<Erased> {
        let (unit, values) = (self.job[RECORD] as usize, self.job[RECORD_VALUES] as usize);
        (unit > 0).then(|| record::read(&batch[unit * ALIGNMENT..][..record::bytes(values)], values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::jpeg::Rect;

    #[test]
    fn every_picture_finds_room_for_a_sample_whatever_the_others_took() {
        let size = (8, 6);
        let shape = StagingShape::new(4, size, 1000, usize::MAX);
        let staging = Staging::new(shape, &Device::Cpu).unwrap();
        let mut plan = Plan::new(size);
        plan.set(Cut::nothing(size));
        let sample = 3 * 8 * 6;
        assert!(staging.claim(&plan, 4 * 1000, None).is_none());
        let large = staging.claim(&plan, 1500, None).expect("others leave enough");
        assert_eq!(large.pixels.len(), 1500);
        let mut starts = Vec::new();
        starts.push(large.place.1..large.place.1 + 1500);
        for _ in 0..3 {
            let claim = staging.claim(&plan, sample, None).expect("room for a sample");
            starts.push(claim.place.1..claim.place.1 + sample);
        }
        for (at, a) in starts.iter().enumerate() {
            assert!(a.end <= shape.capacity());
            assert!(
                starts[at + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start),
                "{starts:?}"
            );
        }
        // Of the smallest size there is exactly that room.
        let least = Staging::new(StagingShape::new(2, size, 0, 0), &Device::Cpu).unwrap();
        assert!(least.claim(&plan, sample + ALIGNMENT, None).is_none());
        assert!((0..2).all(|_| least.claim(&plan, sample, None).is_some()));
        // And of what is erased.
        let erased = Erased {
            rect: Rect::whole(2, 2),
            values: vec![0.5; 12],
        };
        let least = Staging::new(StagingShape::new(2, size, 0, 0).erasing(Some(12)), &Device::Cpu).unwrap();
        assert!((0..2).all(|_| least.claim(&plan, sample, Some(&erased)).is_some()));
    }

    #[test]
    fn a_batch_that_is_cleared_takes_as_much_again() {
        let size = (4, 4);
        let mut staging = Staging::new(StagingShape::new(1, size, 5000, 5000), &Device::Cpu).unwrap();
        let mut plan = Plan::new(size);
        plan.set(Cut::nothing(size));
        for round in 0..3 {
            let claim = staging.claim(&plan, 4000, None).expect("room");
            claim.pixels.fill(round);
            let at = claim.place.1;
            let staged = claim.staged(&plan, Picture::whole(0, 4, 4));
            let contents = staging.complete(&[staged], &[7], &[[1.5; 256]; 3]);
            let bytes = staging.bytes(&contents);
            assert_eq!((bytes[at], bytes[at + 3999], bytes[contents.labels]), (round, round, 7));
            assert_eq!(bytes[..4], 1.5f32.to_le_bytes());
            staging.clear();
        }
    }
}
