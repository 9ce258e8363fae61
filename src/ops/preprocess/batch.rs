//! Jobs and tables of several pictures that lie in one buffer.

use super::tables::{JOB, Plan, UNIT};
use super::{Cut, Picture};

/// What becomes of the pictures of a batch. Keeps its memory when it is cleared.
pub struct Batch {
    plan: Plan,
    pictures: Vec<(Picture, Cut)>,
    jobs: Vec<u32>,
    tables: Vec<u32>,
}

impl Batch {
    /// `size`: height and width of every sample.
    pub fn new(size: (usize, usize)) -> Batch {
        Batch {
            plan: Plan::new(size),
            pictures: Vec::new(),
            jobs: Vec::new(),
            tables: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.pictures.clear();
        self.jobs.clear();
        self.tables.clear();
    }

    /// Panics if the crop is not inside the picture, as far as it is needed.
    pub fn push(&mut self, picture: Picture, cut: Cut) {
        self.plan.set(cut);
        let place = self.tables.len();
        self.jobs.extend(self.plan.job(&picture, place / UNIT));
        self.tables.resize(place + self.plan.words(), 0);
        self.plan.write(&picture, &mut self.tables[place..]);
        self.pictures.push((picture, cut));
    }

    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// Height and width of a sample.
    pub fn size(&self) -> (usize, usize) {
        self.plan.size()
    }

    pub fn pictures(&self) -> &[(Picture, Cut)] {
        &self.pictures
    }

    /// For the kernel; 8-byte aligned there.
    pub fn jobs(&self) -> &[u32] {
        debug_assert_eq!(self.jobs.len(), self.len() * JOB);
        &self.jobs
    }

    /// For the kernel; 16-byte aligned there.
    pub fn tables(&self) -> &[u32] {
        &self.tables
    }
}
