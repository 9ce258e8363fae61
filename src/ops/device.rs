//! Which device a rank computes on: the GPU of its number on the node, or the CPU.
//!
//! The driver hides GPUs that CUDA_VISIBLE_DEVICES leaves out, so a launcher may give each rank its own one (every rank
//! then sees a single GPU, number 0) or all ranks the same list (rank r of the node takes the r-th).

use candle_core::{DType, Device};

use super::gemm::Products;
use crate::error::{Error, Result};
use crate::recipe::{DeviceChoice, Precision};

/// Place of a rank among those of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRank {
    pub rank: usize,
    pub ranks: usize,
}

/// Where a model lies, and the number format that its matrices are multiplied in.
#[derive(Clone, Debug)]
pub struct Placement {
    pub device: Device,
    /// f32, or on a GPU f16 or bf16: that of tokens and of the weights of dense layers. Sums, norms, losses, gradients of
    /// weights and what the optimizer holds are f32 in any case.
    pub compute: DType,
    /// How a CPU multiplies these matrices.
    pub products: Products,
}

impl Placement {
    /// The formats for a device. A CPU has tensors of f32 only, and multiplies in f32 or bf16.
    pub fn new(device: &Device, precision: Precision) -> Self {
        Placement {
            device: device.clone(),
            compute: match precision {
                Precision::Fp16 if device.is_cuda() => DType::F16,
                Precision::Bf16 if device.is_cuda() => DType::BF16,
                _ => DType::F32,
            },
            products: match precision {
                Precision::Bf16 if device.is_cpu() => Products::Bf16,
                _ => Products::F32,
            },
        }
    }
}

impl From<&Device> for Placement {
    fn from(device: &Device) -> Self {
        Placement::new(device, Precision::Fp32)
    }
}

/// A device, and what there is to say about it.
#[derive(Debug)]
pub struct Opened {
    pub device: Device,
    /// One line for the user: which GPU, or why the CPU.
    pub note: String,
    /// What tells GPUs of a node apart; None on the CPU.
    pub identity: Option<String>,
}

/// Opens the device of this rank.
///
/// `Auto` takes a GPU if there is one that can be used, and otherwise says why not and takes the CPU. Errors: `Cuda` and no
/// usable GPU (not built in, no driver, a driver too old, no device, compute capability below 8.0); more ranks on the
/// node than GPUs; no cuBLASLt.
pub fn open(choice: DeviceChoice, place: NodeRank) -> Result<Opened> {
    if choice == DeviceChoice::Cpu {
        return Ok(cpu("computing on the CPU".to_owned()));
    }
    match (gpu(place), choice) {
        (Ok(opened), _) => Ok(opened),
        (Err(unusable), DeviceChoice::Cuda) => {
            Err(Error::usage(format!("--device cuda: {}", unusable.what), unusable.fix))
        }
        (Err(Unusable { quiet: true, .. }), _) => Ok(cpu("computing on the CPU".to_owned())),
        (Err(unusable), _) if unusable.fatal => Err(Error::usage(unusable.what, unusable.fix)),
        (Err(unusable), _) => Ok(cpu(format!("computing on the CPU: {}", unusable.what))),
    }
}

/// Bytes of a GPU's memory that are free, and all of them; nothing of a CPU's.
pub fn free_bytes(device: &Device) -> Result<(usize, usize)> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::memory::free_bytes(device),
        _ => Ok((0, 0)),
    }
}

fn cpu(note: String) -> Opened {
    Opened {
        device: Device::Cpu,
        note,
        identity: None,
    }
}

/// Why a rank cannot have a GPU.
struct Unusable {
    what: String,
    fix: &'static str,
    /// Nobody expects a GPU: nothing to say about it.
    quiet: bool,
    /// There are GPUs, and taking the CPU instead would surprise.
    fatal: bool,
}

impl Unusable {
    fn new(what: impl Into<String>, fix: &'static str) -> Self {
        Unusable {
            what: what.into(),
            fix,
            quiet: false,
            fatal: false,
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn gpu(_place: NodeRank) -> std::result::Result<Opened, Unusable> {
    Err(Unusable {
        quiet: true,
        ..Unusable::new(
            "this dtrain was built without support for GPUs",
            "build it with `cargo build --release --features cuda`, or choose --device cpu",
        )
    })
}

#[cfg(feature = "cuda")]
fn gpu(place: NodeRank) -> std::result::Result<Opened, Unusable> {
    use super::cuda::driver::{self, Problem};

    let driver = driver::probe().map_err(|problem| match problem {
        Problem::NoDriver => Unusable::new(
            "no NVIDIA driver on this machine (libcuda.so.1 was not found)",
            "install the driver, or choose --device cpu",
        ),
        Problem::NoDevice => Unusable::new(
            "the NVIDIA driver sees no GPU",
            "look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES, or choose --device cpu",
        ),
        Problem::TooOld { has, needs } => Unusable::new(
            format!("the NVIDIA driver is too old: it serves CUDA {has}, this program needs {needs}"),
            "update the driver, build dtrain with an older CUDA toolkit, or choose --device cpu",
        ),
        Problem::Failed(what) => Unusable::new(
            format!("the NVIDIA driver cannot be used: {what}"),
            "look at `nvidia-smi`, or choose --device cpu",
        ),
    })?;
    let ordinal = ordinal(place, driver.devices).ok_or_else(|| Unusable {
        fatal: true,
        ..Unusable::new(
            format!(
                "{} ranks on this node, but only {} GPUs are visible",
                place.ranks, driver.devices
            ),
            "start as many ranks per node as there are GPUs (look at CUDA_VISIBLE_DEVICES), or choose --device cpu",
        )
    })?;
    let found = driver::describe(ordinal).map_err(|what| {
        Unusable::new(
            format!("GPU {ordinal} cannot be used: {what}"),
            "look at `nvidia-smi`, or choose --device cpu",
        )
    })?;
    if found.capability.0 < 8 {
        let (major, minor) = found.capability;
        return Err(Unusable::new(
            format!(
                "GPU {ordinal} ({}) has compute capability {major}.{minor}, and 8.0 is needed",
                found.name
            ),
            "use an Ampere GPU (A100, RTX 30) or a newer one, or choose --device cpu",
        ));
    }
    if !super::cuda::cublaslt::is_there() {
        return Err(Unusable {
            fatal: true,
            ..Unusable::new(
                format!(
                    "GPU {ordinal} ({}) cannot be used: cuBLASLt (libcublasLt.so.13) was not found",
                    found.name
                ),
                "install CUDA 13's cuBLAS, or name the folder that it is in in DTRAIN_CUDA_LIB_DIR, or choose --device cpu",
            )
        });
    }
    let device = driver::open(ordinal).map_err(|what| Unusable {
        fatal: true,
        ..Unusable::new(
            format!("GPU {ordinal} ({}) cannot be opened: {what}", found.name),
            "look at `nvidia-smi` for other programs on it, or choose --device cpu",
        )
    })?;
    Ok(Opened {
        device,
        note: format!("computing on GPU {ordinal}, {}", found.name),
        identity: Some(found.uuid),
    })
}

/// Which of the visible GPUs is that of `place`; None if there are too few.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
fn ordinal(place: NodeRank, visible: usize) -> Option<usize> {
    match visible {
        1 => Some(0), // its own, or one for all: the ranks compare their GPUs' identities
        _ if place.ranks <= visible => Some(place.rank),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_node_take_gpus_in_order() {
        let place = |rank, ranks| NodeRank { rank, ranks };
        assert_eq!(ordinal(place(0, 1), 8), Some(0));
        assert_eq!(ordinal(place(3, 4), 4), Some(3));
        assert_eq!(ordinal(place(3, 4), 1), Some(0));
        assert_eq!(ordinal(place(0, 4), 2), None);
        assert_eq!(ordinal(place(0, 1), 0), None);
    }

    #[test]
    fn the_cpu_can_always_be_had() {
        let place = NodeRank { rank: 0, ranks: 1 };
        let opened = open(DeviceChoice::Cpu, place).unwrap();
        assert!(opened.device.is_cpu() && opened.identity.is_none());
    }

    /// Where there is no GPU the program still starts, and says why it takes the CPU.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_machine_without_gpus_is_told_apart() {
        let place = NodeRank { rank: 0, ranks: 1 };
        let opened = open(DeviceChoice::Auto, place).unwrap();
        assert!(!opened.note.is_empty());
        match open(DeviceChoice::Cuda, place) {
            Ok(gpu) => assert!(gpu.device.is_cuda() && gpu.identity.is_some()),
            Err(error) => {
                assert!(opened.device.is_cpu());
                assert!(error.to_string().contains("--device cpu"), "{error}");
                eprintln!("{}", opened.note);
            }
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_gpu_support_says_how_to_build_one_with_it() {
        let place = NodeRank { rank: 0, ranks: 1 };
        assert!(open(DeviceChoice::Auto, place).unwrap().device.is_cpu());
        let error = open(DeviceChoice::Cuda, place).unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
