//! What happens to each value of C after its last product, while the tile is still in the nearest cache.

use std::marker::PhantomData;

use super::super::math;
use super::view::{MatMut, MatRef, Place};

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
    Plus {
        other_mn: MatRef<'a>,
    },
    Gelu {
        activation: Place,
        shape: (usize, usize),
        values: PhantomData<&'a mut [f32]>,
    },
    GeluBackward {
        z_mn: MatRef<'a>,
    },
}

impl<'a> Epilogue<'a> {
    /// c + bias, the same for every row.
    pub fn bias(self, bias_n: &'a [f32]) -> Self {
        Epilogue {
            bias_n: Some(bias_n),
            ..self
        }
    }

    /// c + other, after the bias. An epilogue has one operation besides the bias: the last one asked for.
    pub fn plus(self, other_mn: MatRef<'a>) -> Self {
        assert_adjacent(&other_mn);
        let then = Then::Plus { other_mn };
        Epilogue { then, ..self }
    }

    /// C stays as it is (with the bias), and GELU(c) is written to `activation`: the backward pass needs the former, the
    /// next layer the latter.
    pub fn gelu(self, activation_mn: MatMut<'a>) -> Self {
        let then = Then::Gelu {
            activation: activation_mn.place(),
            shape: activation_mn.shape(),
            values: PhantomData,
        };
        Epilogue { then, ..self }
    }

    /// c · GELU'(z): the gradient with respect to GELU's argument z, if C is that with respect to its result.
    pub fn gelu_backward(self, z_mn: MatRef<'a>) -> Self {
        assert_adjacent(&z_mn);
        let then = Then::GeluBackward { z_mn };
        Epilogue { then, ..self }
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.bias_n.is_none() && matches!(self.then, Then::Nothing)
    }

    /// Panics if an operand does not have the shape of C.
    pub(super) fn check(&self, rows: usize, columns: usize) {
        if let Some(bias_n) = self.bias_n {
            assert_eq!(bias_n.len(), columns, "a bias for {columns} columns");
        }
        let shape = match &self.then {
            Then::Nothing => return,
            Then::Plus { other_mn } => other_mn.shape(),
            Then::Gelu { shape, .. } => *shape,
            Then::GeluBackward { z_mn } => z_mn.shape(),
        };
        assert_eq!(shape, (rows, columns), "the operand of an epilogue");
    }

    /// Where element (i, j) of the other matrix is that the epilogue reads or writes, and the distance of its rows.
    pub(super) fn other(&self, i: usize, j: usize) -> Option<(*const f32, usize)> {
        match &self.then {
            Then::Nothing => None,
            Then::Plus { other_mn: read } | Then::GeluBackward { z_mn: read } => Some((read.at(i, j), read.row_stride)),
            Then::Gelu { activation, .. } => Some((activation.at(i, j), activation.row_stride)),
        }
    }
}

fn assert_adjacent(matrix: &MatRef) {
    let is_adjacent = matrix.column_stride == 1 || matrix.columns < 2;
    assert!(is_adjacent, "an epilogue reads rows of adjacent values");
}

/// A tile of C that is complete but for its epilogue.
///
/// The epilogue has been checked against C. The `rows` by `columns` values from (`row`, `column`) on, of C and of what the
/// epilogue writes, are this call's alone.
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
            // SAFETY: a row of the tile, in C and in a matrix of C's shape that `check` has seen; both are this call's
            // alone if they are written.
            unsafe {
                let c = std::slice::from_raw_parts_mut(self.c.at(i, self.column), self.columns);
                if let Some(bias_n) = self.epilogue.bias_n {
                    combine(c, &bias_n[self.column..][..self.columns], |c, bias| c + bias);
                }
                match &self.epilogue.then {
                    Then::Nothing => {}
                    Then::Plus { other_mn } => combine(c, self.read(other_mn, i), |c, other| c + other),
                    Then::Gelu { activation, .. } => {
                        let to = std::slice::from_raw_parts_mut(activation.at(i, self.column), self.columns);
                        combine(to, c, |_, c| math::gelu(c));
                    }
                    Then::GeluBackward { z_mn } => combine(c, self.read(z_mn, i), |c, z| c * math::gelu_derivative(z)),
                }
            }
        }
    }

    /// Row i of the tile in a matrix of C's shape.
    ///
    /// # Safety
    /// `check` has seen the matrix.
    #[inline(always)]
    unsafe fn read<'m>(&self, matrix: &MatRef<'m>, i: usize) -> &'m [f32] {
        // SAFETY: its rows are of adjacent values, and i and the columns lie inside.
        unsafe { std::slice::from_raw_parts(matrix.at(i, self.column), self.columns) }
    }
}

/// to = f(to, from), sixteen at a time.
#[inline(always)]
fn combine(to: &mut [f32], from: &[f32], f: impl Fn(f32, f32) -> f32) {
    let (to_whole, to_rest) = to.as_chunks_mut::<16>();
    let (from_whole, from_rest) = from.as_chunks::<16>();
    for (to, from) in to_whole.iter_mut().zip(from_whole) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f(*to, *from);
        }
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = f(*to, *from);
    }
}
