//! Matrices as views into slices: a shape and two strides over borrowed f32 values.
//!
//! Constructors check that every element lies inside the slice, so everything below may use pointers.

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix that is read: element (i, j) is `values[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// A matrix that is written: rows of adjacent values, `row_stride` apart.
#[derive(Debug)]
pub struct MatMut<'a> {
    pointer: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

impl<'a> MatRef<'a> {
    /// Rows of adjacent values without gaps. Panics if `values` are too few.
    pub fn row_major(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns, 1)
    }

    /// Strides are in elements; 0 repeats a row or column. Panics if an element would lie outside `values`.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let needed = span(rows, columns, row_stride, column_stride);
        assert!(
            values.len() >= needed,
            "a {rows} x {columns} matrix with strides {row_stride}, {column_stride} needs {needed} values, not {}",
            values.len()
        );
        MatRef {
            values,
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        MatRef {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The columns in `range`.
    pub fn columns(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.columns,
            "columns {range:?} of {}",
            self.columns
        );
        let start = (range.start * self.column_stride).min(self.values.len());
        Self::strided(
            &self.values[start..],
            self.rows,
            range.len(),
            self.row_stride,
            self.column_stride,
        )
    }

    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The place of element (i, j), which need not exist.
    pub(super) fn at(&self, i: usize, j: usize) -> *const f32 {
        self.values
            .as_ptr()
            .wrapping_add(i * self.row_stride + j * self.column_stride)
    }
}

impl<'a> MatMut<'a> {
    /// Rows of adjacent values without gaps. Panics if `values` are too few.
    pub fn row_major(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// Rows `row_stride` elements apart. Panics if rows overlap or an element would lie outside `values`.
    pub fn strided(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let needed = span(rows, columns, row_stride, 1);
        assert!(
            values.len() >= needed,
            "a {rows} x {columns} matrix with rows {row_stride} apart needs {needed} values, not {}",
            values.len()
        );
        // SAFETY: the slice is borrowed for 'a, holds every element, and nobody else can reach it.
        unsafe { Self::from_raw(values.as_mut_ptr(), rows, columns, row_stride) }
    }

    /// For destinations whose rows interleave with those of others, as the heads of one attention output do.
    ///
    /// # Safety
    /// For as long as 'a, every element `pointer[i * row_stride + j]` must be valid, and nobody else may read or
    /// write it.
    pub unsafe fn from_raw(pointer: *mut f32, rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows < 2 || row_stride >= columns,
            "rows of {columns} overlap at a stride of {row_stride}"
        );
        MatMut {
            pointer,
            rows,
            columns,
            row_stride,
            values: PhantomData,
        }
    }

    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    pub(super) fn place(&self) -> Place {
        Place {
            pointer: self.pointer,
            row_stride: self.row_stride,
        }
    }
}

/// Where a destination lies: handed to threads that write tiles of it, no two of them the same element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pointer: *mut f32,
    pub row_stride: usize,
}

// SAFETY: an address alone; the loops in `block` give each tile of C to one task, and one `MatMut` is behind each place.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    pub fn at(&self, i: usize, j: usize) -> *mut f32 {
        self.pointer.wrapping_add(i * self.row_stride + j)
    }
}

/// How many values there are from the first element to the last.
fn span(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    (rows - 1)
        .checked_mul(row_stride)
        .zip((columns - 1).checked_mul(column_stride))
        .and_then(|(down, across)| down.checked_add(across)?.checked_add(1))
        .expect("a matrix of more elements than addresses")
}
