//! What happens to each value of C after its last product, while the tile is still in the nearest cache.

use super::view::{MatRef, Place};

/// c = then(alpha · a · b + beta · c + bias).
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    bias_n: Option<&'a [f32]>,
    then: Then<'a>,
}

#[derive(Debug, Default)]
enum Then<'a> {
    #[default]
    Nothing,
    Add {
        other_mn: MatRef<'a>,
    },
}

impl<'a> Epilogue<'a> {
    /// c + bias, the same for every row. Panics (on use) if it is not as long as a row of C.
    pub fn bias(mut self, bias_n: &'a [f32]) -> Self {
        self.bias_n = Some(bias_n);
        self
    }

    /// c + other. Replaces another operation than bias.
    pub fn plus(mut self, other_mn: MatRef<'a>) -> Self {
        assert_adjacent(&other_mn);
        self.then = Then::Add { other_mn };
        self
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.bias_n.is_none() && matches!(self.then, Then::Nothing)
    }

    /// Panics if an operand does not have the shape of C.
    pub(super) fn check(&self, rows: usize, columns: usize) {
        if let Some(bias_n) = self.bias_n {
            assert_eq!(bias_n.len(), columns, "a bias for {columns} columns");
        }
        match &self.then {
            Then::Nothing => {}
            Then::Add { other_mn } => assert_eq!(other_mn.shape(), (rows, columns), "what is added to a product"),
        }
    }
}

fn assert_adjacent(matrix: &MatRef) {
    assert!(
        matrix.column_stride == 1 || matrix.columns < 2,
        "an epilogue reads rows of adjacent values"
    );
}

/// A tile of C that is complete but for its epilogue.
///
/// The epilogue has been checked against C; the `rows` by `columns` values of C from (`row`, `column`) on are this
/// call's alone.
pub(super) struct Finish<'a> {
    pub epilogue: &'a Epilogue<'a>,
    pub c: Place,
    pub row: usize,
    pub column: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Finish<'_> {
    /// # Safety
    /// The memory is as this type says.
    #[inline(always)]
    pub(super) unsafe fn apply(&self) {
        for i in self.row..self.row + self.rows {
            // SAFETY: a row of the tile, which nobody else touches meanwhile.
            let c = unsafe { std::slice::from_raw_parts_mut(self.c.at(i, self.column), self.columns) };
            if let Some(bias_n) = self.epilogue.bias_n {
                combine(c, &bias_n[self.column..self.column + self.columns], |c, bias| c + bias);
            }
            match &self.epilogue.then {
                Then::Nothing => {}
                Then::Add { other_mn } => combine(c, self.part(other_mn, i), |c, other| c + other),
            }
        }
    }

    /// Row i of the tile in a matrix of C's shape.
    #[inline(always)]
    fn part<'m>(&self, matrix: &MatRef<'m>, i: usize) -> &'m [f32] {
        // SAFETY: `check` held the matrix against C's shape and its columns are adjacent, so these elements are valid.
        unsafe { std::slice::from_raw_parts(matrix.at(i, self.column), self.columns) }
    }
}

/// c = f(c, other), sixteen at a time.
#[inline(always)]
fn combine(c: &mut [f32], other: &[f32], f: impl Fn(f32, f32) -> f32) {
    let (c_whole, c_rest) = c.as_chunks_mut::<16>();
    let (other_whole, other_rest) = other.as_chunks::<16>();
    for (c, other) in c_whole.iter_mut().zip(other_whole) {
        for (c, other) in c.iter_mut().zip(other) {
            *c = f(*c, *other);
        }
    }
    for (c, other) in c_rest.iter_mut().zip(other_rest) {
        *c = f(*c, *other);
    }
}
