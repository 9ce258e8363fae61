//! Products of matrices: every one of the model goes through this file.
//!
//! Operands may be strided (transposed, columns of a wider matrix, one token of each image); nothing is copied to make
//! them contiguous. Leading dimensions are rows. On a GPU tensors themselves have the format that is multiplied in; on a CPU
//! they are f32, and every product is told ([`Products`]).

use candle_core::{Device, Shape, Tensor};
use rayon::prelude::*;

pub use super::gemm::Products;
use super::gemm::{MatMut, MatRef, Product};
use super::meter;
use super::storage::{Values, overwrite, refused, spanned, tensor, unwritten, update};
use crate::error::Result;

/// What becomes of the old values of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// A factor: the rows of a tensor (its leading dimensions) as they are, or transposed.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    Rows(&'a Tensor),
    Transposed(&'a Tensor),
}
use Factor::{Rows, Transposed};

/// y[…,o] = x[…,i] · w[o,i]ᵀ + bias[o].
pub fn linear(x_ni: &Tensor, w_oi: &Tensor, bias_o: Option<&Tensor>, products: Products) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_ni.device().is_cuda() {
        return super::cuda::matmul::linear(x_ni, w_oi, bias_o, None);
    }
    let (y, write) = match bias_o {
        Some(bias_o) => (repeated(bias_o, x_ni)?, Write::Add),
        None => (empty(x_ni, w_oi.dims()[0])?, Write::Replace),
    };
    product_into(&y, write, 1.0, Rows(x_ni), Transposed(w_oi), products)?;
    Ok(y)
}

/// y[b,q,o] = residual[b,q,o] + x[b,q,i] · w[o,i]ᵀ + bias[o]. The residual's images may lie apart.
pub fn linear_onto(
    residual_bqo: &Tensor,
    x_bqi: &Tensor,
    w_oi: &Tensor,
    bias_o: Option<&Tensor>,
    products: Products,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x_bqi.device().is_cuda() {
        return super::cuda::matmul::linear(x_bqi, w_oi, bias_o, Some(residual_bqo));
    }
    let y = super::residual::with_bias(residual_bqo, bias_o)?;
    product_into(&y, Write::Add, 1.0, Rows(x_bqi), Transposed(w_oi), products)?;
    Ok(y)
}

/// y[…,n] = a[…,k] · b[k,n].
pub fn product(a_mk: &Tensor, b_kn: &Tensor, products: Products) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if a_mk.device().is_cuda() {
        return super::cuda::matmul::product(a_mk, b_kn);
    }
    let columns = b_kn.dims()[b_kn.rank() - 1];
    let y = empty(a_mk, columns)?;
    product_into(&y, Write::Replace, 1.0, Rows(a_mk), Rows(b_kn), products)?;
    Ok(y)
}

/// c[…,n] = (c +) alpha · a[…,k] · b[k,n], written in place; c may be a strided view.
pub fn product_into(
    c_mn: &Tensor,
    write: Write,
    alpha: f32,
    a_mk: Factor,
    b_kn: Factor,
    products: Products,
) -> Result<()> {
    #[cfg(feature = "cuda")]
    if c_mn.device().is_cuda() {
        return super::cuda::matmul::product_into(c_mn, write, alpha, a_mk, b_kn);
    }
    let (a, b) = (Matrix::new(a_mk)?, Matrix::new(b_kn)?);
    let c = Form::of(c_mn)?;
    if a.form.columns != b.form.rows || c.rows != a.form.rows || c.columns != b.form.columns {
        return Err(refused(format!(
            "shapes do not fit: {}x{} = {}x{} · {}x{}",
            c.rows, c.columns, a.form.rows, a.form.columns, b.form.rows, b.form.columns
        )));
    }
    meter::operations(2 * c.rows * c.columns * a.form.columns);
    let multiply = |destination: &mut [f32]| {
        let beta = match write {
            Write::Replace => 0.0,
            Write::Add => 1.0,
        };
        let c = MatMut::strided(destination, c.rows, c.columns, c.row_stride);
        let product = Product::new(a.view(), b.view()).products(products);
        product.alpha(alpha).beta(beta).write(c);
    };
    match write {
        Write::Add => update(c_mn, multiply),
        Write::Replace => overwrite(c_mn, multiply),
    }
}

/// Rows, columns and their strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl Form {
    pub fn of(t: &Tensor) -> Result<Form> {
        let (dims, strides) = (t.dims(), t.stride());
        let Some((&columns, leading)) = dims.split_last() else {
            return Err(refused("a scalar is no matrix".into()));
        };
        let mut form = Form {
            rows: leading.iter().product(),
            columns,
            row_stride: 0,
            column_stride: strides[dims.len() - 1],
        };
        // Leading dimensions, innermost first, must follow each other with one stride.
        let mut next = None;
        for (&n, &stride) in leading.iter().zip(strides).rev().filter(|(n, _)| **n != 1) {
            match next {
                None => form.row_stride = stride,
                Some(expected) if expected == stride => {}
                Some(_) => return Err(refused(format!("rows of {:?} have no common stride", t.layout()))),
            }
            next = Some(n * stride);
        }
        Ok(form)
    }

    pub fn transposed(self) -> Form {
        Form {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

struct Matrix<'a> {
    values: Values<'a>,
    form: Form,
}

impl<'a> Matrix<'a> {
    fn new(factor: Factor<'a>) -> Result<Self> {
        let (t, form) = match factor {
            Rows(t) => (t, Form::of(t)?),
            Transposed(t) => (t, Form::of(t)?.transposed()),
        };
        Ok(Matrix {
            values: spanned(t)?,
            form,
        })
    }

    fn view(&self) -> MatRef<'_> {
        let Form {
            rows,
            columns,
            row_stride,
            column_stride,
        } = self.form;
        MatRef::strided(&self.values, rows, columns, row_stride, column_stride)
    }
}

fn empty(like_n: &Tensor, columns: usize) -> Result<Tensor> {
    let shape = shape_with(like_n, columns);
    // Counted as written by the product.
    Ok(Tensor::from_vec(unwritten(shape.elem_count()), shape, &Device::Cpu)?)
}

/// `bias_o` once per row of `like_n`.
fn repeated(bias_o: &Tensor, like_n: &Tensor) -> Result<Tensor> {
    let bias = super::storage::values(bias_o)?;
    let shape = shape_with(like_n, bias.len());
    let mut all = unwritten(shape.elem_count());
    all.par_chunks_mut(bias.len() * 64).for_each(|rows| {
        for row in rows.chunks_exact_mut(bias.len()) {
            row.copy_from_slice(&bias);
        }
    });
    tensor(all, shape)
}

fn shape_with(like_n: &Tensor, columns: usize) -> Shape {
    let mut dims = like_n.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    dims.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::storage::values;

    fn whole(shape: &[usize], seed: usize) -> Tensor {
        let n: usize = shape.iter().product();
        let values = (0..n).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect();
        tensor(values, shape).unwrap()
    }

    /// Small whole numbers: every order of summation gives the same bits, in bf16 too.
    #[test]
    fn products_of_views_are_exact() {
        let x = whole(&[3, 5, 12], 1);
        let w = whole(&[4, 6], 2);
        let bias = whole(&[4], 3);
        let part = x.narrow(2, 4, 6).unwrap();
        let y = linear(&part, &w, Some(&bias), Products::F32).unwrap();
        let reference = part
            .contiguous()
            .unwrap()
            .broadcast_matmul(&w.t().unwrap())
            .unwrap()
            .broadcast_add(&bias)
            .unwrap();
        assert_eq!(y.to_vec3::<f32>().unwrap(), reference.to_vec3::<f32>().unwrap());

        let first = x.narrow(1, 0, 1).unwrap().narrow(2, 4, 6).unwrap();
        let z = linear(&first, &w, Some(&bias), Products::F32).unwrap();
        assert_eq!(
            z.to_vec3::<f32>().unwrap(),
            reference.narrow(1, 0, 1).unwrap().to_vec3::<f32>().unwrap()
        );
    }

    #[test]
    fn a_product_lands_in_the_columns_it_is_meant_for() {
        let c = whole(&[2, 3, 8], 4);
        let before = c.copy().unwrap();
        let (a, b) = (whole(&[2, 3, 5], 5), whole(&[5, 2], 6));
        product_into(
            &c.narrow(2, 3, 2).unwrap(),
            Write::Add,
            2.0,
            Rows(&a),
            Rows(&b),
            Products::Bf16,
        )
        .unwrap();
        let change = (&c - &before).unwrap();
        let expected = (a.broadcast_matmul(&b).unwrap() * 2.0).unwrap();
        assert_eq!(
            change.narrow(2, 3, 2).unwrap().to_vec3::<f32>().unwrap(),
            expected.to_vec3::<f32>().unwrap()
        );
        let around: f32 = values(&change).unwrap().iter().map(|x| x.abs()).sum();
        let inside: f32 = values(&expected).unwrap().iter().map(|x| x.abs()).sum();
        assert_eq!(around, inside);
    }

    #[test]
    fn rows_of_a_view_can_be_transposed() {
        let (x, dy) = (whole(&[2, 3, 5], 7), whole(&[2, 3, 9], 8));
        let part = dy.narrow(2, 2, 4).unwrap();
        let gradient = whole(&[4, 5], 9);
        product_into(
            &gradient,
            Write::Replace,
            1.0,
            Transposed(&part),
            Rows(&x),
            Products::Bf16,
        )
        .unwrap();
        let flat = part.contiguous().unwrap().flatten_to(1).unwrap().t().unwrap();
        let expected = flat.matmul(&x.flatten_to(1).unwrap()).unwrap();
        assert_eq!(gradient.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (a, b) = (whole(&[2, 3], 0), whole(&[4, 2], 0));
        assert!(product(&a, &b, Products::F32).is_err());
        let uneven = whole(&[2, 4, 3], 0).narrow(1, 0, 2).unwrap();
        assert!(product(&uneven, &whole(&[3, 2], 0), Products::F32).is_err());
    }
}
