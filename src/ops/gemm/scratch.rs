//! Memory for packed panels that each thread keeps, so that a product allocates nothing once it has run before.

use std::cell::Cell;
use std::thread::LocalKey;

/// One cache line, and one vector of AVX-512.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Line([f32; 16]);

/// Floats at a multiple of 64 bytes, with whatever values they had before.
#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// At least `n` floats, zero when they are new.
    pub fn with_room_for(n: usize) -> Self {
        let mut lines = Lines::default();
        lines.grow(n);
        lines
    }

    pub fn as_ptr(&self) -> *const f32 {
        self.0.as_ptr().cast()
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    pub fn len(&self) -> usize {
        self.0.len() * 16
    }

    fn grow(&mut self, n: usize) {
        let lines = n.div_ceil(16);
        if self.0.len() < lines {
            // The old values are of no use: nothing is copied into the new block.
            self.0 = Vec::new();
            self.0.resize(lines, Line([0.0; 16]));
        }
    }
}

thread_local! {
    static ROWS: Cell<Lines> = const { Cell::new(Lines(Vec::new())) };
    static COLUMNS: Cell<Lines> = const { Cell::new(Lines(Vec::new())) };
}

/// This thread's room for rows of the left operand.
pub(super) fn with_rows<R>(n: usize, work: impl FnOnce(&mut Lines) -> R) -> R {
    with(&ROWS, n, work)
}

/// This thread's room for columns of the right operand.
pub(super) fn with_columns<R>(n: usize, work: impl FnOnce(&mut Lines) -> R) -> R {
    with(&COLUMNS, n, work)
}

/// Takes the lines out while `work` runs: a thread that waits for others may be given another product meanwhile,
/// which then finds none and makes its own.
fn with<R>(kept: &'static LocalKey<Cell<Lines>>, n: usize, work: impl FnOnce(&mut Lines) -> R) -> R {
    let mut lines = kept.take();
    lines.grow(n);
    let result = work(&mut lines);
    let other = kept.take();
    kept.set(if other.len() > lines.len() { other } else { lines });
    result
}
