//! Matrix products through cuBLASLt: f32, f16 and bf16 operands, accumulated in f32.
//!
//! Matrices are row-major here and column-major there, so what it is asked for is the transposed product, Cᵀ = Bᵀ·Aᵀ. Which
//! of its algorithms runs is asked of its heuristics once for every kind of product. Its GELU is the tanh approximation
//! and Hugging Face's is exact, so the only epilogue used is the bias.

use std::collections::HashMap;
use std::ffi::c_void;

use candle_core::DType;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};

use super::gpu::Gpu;
use super::{Output, failed};
use crate::error::Result;
use crate::ops::meter;

/// What a heuristic may ask for; NVIDIA advises 32 MiB on Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A row-major matrix on the device. One of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub address: u64,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
    pub dtype: DType,
}

/// d[m,n] = alpha·a[m,k]·b[k,n] + beta·c[m,n] (+ bias[n]).
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub a: Matrix,
    pub b: Matrix,
    /// May be `d`; read only if beta is not 0.
    pub c: Matrix,
    pub d: Matrix,
    pub alpha: f32,
    pub beta: f32,
    /// Address of n numbers of d's type.
    pub bias: Option<u64>,
}

/// The library's handle, what it needs, and its answers so far.
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: Output,
    plans: HashMap<Key, Plan>,
}

// SAFETY: a cuBLASLt handle may be used from any thread, one at a time (the lock around `Blas`).
unsafe impl Send for Blas {}

/// Everything that the choice of an algorithm depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Rows, columns and leading dimension of a, b, c and d, as the library sees them.
    sizes: [(u64, u64, i64); 4],
    transposed: [bool; 2],
    inputs: sys::cudaDataType_t,
    output: sys::cudaDataType_t,
    /// Largest power of two (to 256) that divides the addresses of a, b, c, d.
    alignments: [u32; 4],
    with_bias: bool,
}

struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 4],
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace_bytes: usize,
}

/// Whether the library can be opened.
pub fn is_there() -> bool {
    // SAFETY: takes nothing. Without the library it returns an error's number, and versions are above 10000.
    let version = unsafe { sys::cublasLtGetVersion() };
    version >= 10_000
}

/// Asks the GPU for a product. Does nothing if d is empty; k = 0 is refused.
///
/// # Safety
/// The matrices lie in memory that is theirs, and nothing else asked of the GPU at the same time writes there.
pub unsafe fn multiply(gpu: &Gpu, product: &Product) -> Result<()> {
    if product.d.rows == 0 || product.d.columns == 0 {
        return Ok(());
    }
    meter::operations(2 * product.d.rows * product.d.columns * product.a.columns);
    let mut blas = gpu.blas.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let blas = match &mut *blas {
        Some(blas) => blas,
        none => none.insert(Blas::new(gpu)?),
    };
    let key = Key::of(product)?;
    let handle = blas.handle;
    let plan = match blas.plans.entry(key.clone()) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Plan::new(handle, &key)?),
    };
    let Product {
        a,
        b,
        c,
        d,
        alpha,
        beta,
        ..
    } = product;
    if let Some(bias) = product.bias {
        use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER as POINTER;
        set_description(plan.description, POINTER, &bias)?;
    }
    let [a_layout, b_layout, c_layout, d_layout] = plan.layouts;
    // SAFETY: handle, description, layouts and workspace are alive; alpha and beta are read during the call; the matrices
    // are this function's own contract.
    let done = unsafe {
        result::matmul(
            handle,
            plan.description,
            (&raw const *alpha).cast(),
            (&raw const *beta).cast(),
            b.address as *const c_void,
            a_layout,
            a.address as *const c_void,
            b_layout,
            c.address as *const c_void,
            c_layout,
            d.address as *mut c_void,
            d_layout,
            &plan.algorithm,
            blas.workspace.address() as *mut c_void,
            plan.workspace_bytes,
            gpu.stream() as sys::cudaStream_t,
        )
    };
    done.map_err(|error| failed(format!("cuBLASLt: product {product:?}"), error))
}

impl Blas {
    fn new(gpu: &Gpu) -> Result<Blas> {
        let handle = result::create_handle().map_err(|error| {
            failed(
                "cuBLASLt",
                format!("{error}\n  to do: install CUDA's libcublasLt, or name its folder in DTRAIN_CUDA_LIB_DIR"),
            )
        })?;
        Ok(Blas {
            handle,
            workspace: Output::new(gpu, WORKSPACE_BYTES, DType::U8)?,
            plans: HashMap::new(),
        })
    }
}

impl Key {
    fn of(product: &Product) -> Result<Key> {
        let Product { a, b, c, d, .. } = product;
        let fits = a.rows == d.rows && b.columns == d.columns && a.columns == b.rows && a.columns > 0;
        let same_sizes = (c.rows, c.columns, c.dtype) == (d.rows, d.columns, d.dtype) && a.dtype == b.dtype;
        if !fits || !same_sizes {
            return Err(failed("matrices do not fit", format!("{product:?}")));
        }
        let ((b_size, b_transposed), (a_size, a_transposed)) = (b.for_library()?, a.for_library()?);
        let ((c_size, c_transposed), (d_size, d_transposed)) = (c.for_library()?, d.for_library()?);
        if c_transposed || d_transposed {
            return Err(failed("a product must go to rows", format!("{d:?}")));
        }
        let alignment = |matrix: &Matrix| 1 << matrix.address.trailing_zeros().min(8);
        Ok(Key {
            sizes: [b_size, a_size, c_size, d_size],
            transposed: [b_transposed, a_transposed],
            inputs: number(a.dtype)?,
            output: number(d.dtype)?,
            alignments: [b, a, c, d].map(alignment),
            with_bias: product.bias.is_some(),
        })
    }
}

impl Matrix {
    /// (rows, columns, leading dimension) of the column-major matrix that lies there, and whether it must be transposed
    /// to be the transposed of this one.
    fn for_library(&self) -> Result<((u64, u64, i64), bool)> {
        let (rows, columns) = (self.rows as u64, self.columns as u64);
        // A stride between things of which there is one says nothing.
        let dense = |stride: usize, count: usize| stride == 1 || count == 1;
        if dense(self.column_stride, self.columns) {
            let leading = if self.rows == 1 { self.columns } else { self.row_stride };
            if leading >= self.columns {
                return Ok(((columns, rows, leading as i64), false));
            }
        }
        if dense(self.row_stride, self.rows) {
            let leading = if self.columns == 1 {
                self.rows
            } else {
                self.column_stride
            };
            if leading >= self.rows {
                return Ok(((rows, columns, leading as i64), true));
            }
        }
        Err(failed(
            "cuBLASLt needs dense rows or dense columns",
            format!("{self:?}"),
        ))
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, key: &Key) -> Result<Plan> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let problem = |error| failed("cuBLASLt: preparing a product", error);
        let description = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )
        .map_err(problem)?;
        // cublasOperation_t, which the bindings leave out: CUBLAS_OP_N and CUBLAS_OP_T.
        let operation = |transposed: bool| i32::from(transposed);
        set_description(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &operation(key.transposed[0]),
        )?;
        set_description(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
            &operation(key.transposed[1]),
        )?;
        if key.with_bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set_description(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        }
        let mut layouts = [std::ptr::null_mut(); 4];
        for (i, (rows, columns, leading)) in key.sizes.iter().enumerate() {
            let number = if i < 2 { key.inputs } else { key.output };
            layouts[i] = result::create_matrix_layout(number, *rows, *columns, *leading).map_err(problem)?;
        }
        let (algorithm, workspace_bytes) = choose(handle, description, layouts, key)?;
        Ok(Plan {
            description,
            layouts,
            algorithm,
            workspace_bytes,
        })
    }
}

/// The heuristic's first choice.
fn choose(
    handle: sys::cublasLtHandle_t,
    description: sys::cublasLtMatmulDesc_t,
    [a, b, c, d]: [sys::cublasLtMatrixLayout_t; 4],
    key: &Key,
) -> Result<(sys::cublasLtMatmulAlgo_t, usize)> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let workspace_bytes = WORKSPACE_BYTES;
    let preference = result::create_matmul_pref().map_err(|error| failed("cuBLASLt", error))?;
    let set = |attribute, value: *const c_void, bytes| {
        // SAFETY: the preference is alive, and the value has the attribute's size.
        unsafe { result::set_matmul_pref_attribute(preference, attribute, value, bytes) }
            .map_err(|error| failed("cuBLASLt", error))
    };
    set(
        Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
        (&raw const workspace_bytes).cast(),
        size_of::<usize>(),
    )?;
    let alignments = [
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    for (attribute, bytes) in alignments.into_iter().zip(&key.alignments) {
        set(attribute, (&raw const *bytes).cast(), size_of::<u32>())?;
    }
    // SAFETY: all descriptors were made above and are alive; the preference is destroyed once.
    let chosen = unsafe {
        let chosen = result::get_matmul_algo_heuristic(handle, description, a, b, c, d, preference);
        let _ = result::destroy_matmul_pref(preference);
        chosen
    };
    let chosen = chosen.map_err(|error| {
        let Key { sizes, transposed, .. } = key;
        failed(
            "cuBLASLt knows no algorithm",
            format!("{error}; {sizes:?} {transposed:?}"),
        )
    })?;
    Ok((chosen.algo, chosen.workspaceSize))
}

fn set_description<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<()> {
    // SAFETY: the description is alive, and the value has the attribute's type: a 4-byte enumeration or an address.
    unsafe { result::set_matmul_desc_attribute(description, attribute, (&raw const *value).cast(), size_of::<T>()) }
        .map_err(|error| failed("cuBLASLt", error))
}

fn number(dtype: DType) -> Result<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
        DType::F16 => Ok(sys::cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
        other => Err(failed("no products of this kind of number", format!("{other:?}"))),
    }
}
