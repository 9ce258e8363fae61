//! The CUDA side of ops::matmul: the operands' forms handed to cuBLASLt.

use candle_core::{DType, Tensor};

use super::cublaslt::{self, Matrix, Product};
use super::memory::{Operand, contiguous, operand};
use super::{Gpu, Output, failed};
use crate::error::Result;
use crate::ops::matmul::{Factor, Form, Write};

/// y[…,o] = x[…,i]·w[o,i]ᵀ + bias[o] (+ residual[…,o], whose rows may lie apart).
pub fn linear(x_ni: &Tensor, w_oi: &Tensor, bias_o: Option<&Tensor>, residual_no: Option<&Tensor>) -> Result<Tensor> {
    let gpu = Gpu::of(x_ni.device())?;
    let dtype = x_ni.dtype();
    let (x, w) = (operand(x_ni)?, operand(w_oi)?);
    let bias = bias_o.map(contiguous).transpose()?;
    if let Some(bias) = bias.as_ref().filter(|bias| bias.dtype != dtype) {
        return Err(failed(
            "a product",
            format!("its bias is {:?}, the rest {dtype:?}", bias.dtype),
        ));
    }
    if let Some(bias_o) = bias_o.filter(|bias_o| bias_o.elem_count() != w_oi.dims()[0]) {
        return Err(failed(
            "a product",
            format!("a bias of {:?} with weights of {:?}", bias_o.shape(), w_oi.shape()),
        ));
    }
    let residual = residual_no.map(operand).transpose()?;
    let (a, b) = (matrix(&x, Form::of(x_ni)?), matrix(&w, Form::of(w_oi)?.transposed()));
    let y = Output::new(&gpu, a.rows * b.columns, dtype)?;
    let d = fresh(&y, a.rows, b.columns, dtype);
    let product = Product {
        a,
        b,
        c: match (&residual, residual_no) {
            (Some(residual), Some(tensor)) => matrix(residual, Form::of(tensor)?),
            _ => d,
        },
        d,
        alpha: 1.0,
        beta: if residual.is_some() { 1.0 } else { 0.0 },
        bias: bias.as_ref().map(Operand::address),
    };
    // SAFETY: forms come from the tensors' layouts, and the destination is fresh.
    unsafe { cublaslt::multiply(&gpu, &product) }?;
    Ok(y.into_tensor(with_last(x_ni, w_oi.dims()[0])))
}

/// y[…,n] = a[…,k]·b[k,n].
pub fn product(a_mk: &Tensor, b_kn: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(a_mk.device())?;
    let (a, b) = (operand(a_mk)?, operand(b_kn)?);
    let (a, b) = (matrix(&a, Form::of(a_mk)?), matrix(&b, Form::of(b_kn)?));
    let y = Output::new(&gpu, a.rows * b.columns, a_mk.dtype())?;
    let d = fresh(&y, a.rows, b.columns, a_mk.dtype());
    let product = Product {
        a,
        b,
        c: d,
        d,
        alpha: 1.0,
        beta: 0.0,
        bias: None,
    };
    // SAFETY: as above.
    unsafe { cublaslt::multiply(&gpu, &product) }?;
    Ok(y.into_tensor(with_last(a_mk, b.columns)))
}

/// c = (c +) alpha·a·b in place; c may be f32 where a and b are not.
pub fn product_into(c_mn: &Tensor, write: Write, alpha: f32, a_mk: Factor, b_kn: Factor) -> Result<()> {
    let gpu = Gpu::of(c_mn.device())?;
    let factor = |factor: Factor| -> Result<Matrix> {
        let (Factor::Rows(tensor) | Factor::Transposed(tensor)) = factor;
        let form = Form::of(tensor)?;
        let form = match factor {
            Factor::Rows(_) => form,
            Factor::Transposed(_) => form.transposed(),
        };
        Ok(matrix(&operand(tensor)?, form))
    };
    let c = matrix(&operand(c_mn)?, Form::of(c_mn)?);
    let a = factor(a_mk)?;
    if a.columns == 0 && write == Write::Add {
        return Ok(()); // of no rows nothing is added
    }
    let product = Product {
        a,
        b: factor(b_kn)?,
        c,
        d: c,
        alpha,
        beta: match write {
            Write::Replace => 0.0,
            Write::Add => 1.0,
        },
        bias: None,
    };
    // SAFETY: forms come from the tensors' layouts, and all tensors are held by the caller.
    unsafe { cublaslt::multiply(&gpu, &product) }
}

fn matrix(operand: &Operand, form: Form) -> Matrix {
    Matrix {
        address: operand.address(),
        rows: form.rows,
        columns: form.columns,
        row_stride: form.row_stride,
        column_stride: form.column_stride,
        dtype: operand.dtype,
    }
}

fn fresh(output: &Output, rows: usize, columns: usize, dtype: DType) -> Matrix {
    Matrix {
        address: output.address(),
        rows,
        columns,
        row_stride: columns,
        column_stride: 1,
        dtype,
    }
}

fn with_last(like: &Tensor, columns: usize) -> Vec<usize> {
    let mut dims = like.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    dims
}
