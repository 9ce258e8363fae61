//! The one error type: what failed, with which values, where, and what to do about it.
//!
//! A message is read by somebody who typed a command, so every variant carries the place (file, row, tensor, flag)
//! and a remedy. Bugs of ours panic instead.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, a recipe key or a combination of them that cannot be carried out.
    #[error("{what}\n  to do: {fix}")]
    Usage { what: String, fix: String },

    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}{}", path.display(), io_remedy(source))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },

    /// A dataset that cannot be read as one: shard, schema, split, label.
    #[error("dataset {}: {what}\n  to do: {fix}", path.display())]
    Dataset { path: PathBuf, what: String, fix: String },

    /// One image that cannot be decoded.
    #[error("image {at}: {what}")]
    Image { at: String, what: String },

    /// A model directory or adapter that does not fit: missing files, wrong shapes, unknown architecture.
    #[error("model {}: {what}\n  to do: {fix}", path.display())]
    Model { path: PathBuf, what: String, fix: String },

    /// A training checkpoint that cannot be resumed from.
    #[error("checkpoint {}: {what}\n  to do: {fix}", path.display())]
    Checkpoint { path: PathBuf, what: String, fix: String },

    /// The Hugging Face Hub does not give, or take, what was asked.
    #[error("Hugging Face Hub: {what}\n  to do: {fix}")]
    Hub { what: String, fix: String },

    /// Training itself went wrong: no gradient, not finite, out of memory. Steps count from 0, and are told from 1, as progress and
    /// logs tell them.
    #[error("training failed at step {}: {what}\n  to do: {fix}", step + 1)]
    Training { step: u64, what: String, fix: String },

    /// Something else went wrong within a step.
    #[error("in optimizer step {}: {source}", step + 1)]
    AtStep { step: u64, source: Box<Error> },

    /// A signal asked for the end; nothing was lost.
    #[error("stopped by {signal} after step {step} of {total_steps}; {} holds it\n  to do: run the same command with --resume-from-checkpoint true", checkpoint.display())]
    Stopped {
        signal: &'static str,
        step: u64,
        total_steps: u64,
        checkpoint: PathBuf,
    },

    /// Another process of the job failed or the processes disagree.
    #[error("ranks: {what}\n  to do: {fix}")]
    Ranks { what: String, fix: String },

    /// The GPU's memory is full.
    #[error(
        "the GPU is out of memory in {what}: {needed_gib:.2} GiB were asked for, {free_gib:.2} of {total_gib:.2} GiB are free{}\n  to do: {}{fix}, or end other programs on the GPU",
        kept_pictures(*pictures_gib), if *pictures_gib > 0.0 { "choose --image-cache host, none or a smaller --image-cache-gb, " } else { "" }
    )]
    GpuMemory {
        /// Who wanted it.
        what: String,
        needed_gib: f64,
        free_gib: f64,
        total_gib: f64,
        /// Of it, what decoded pictures take (`--image-cache`).
        pictures_gib: f64,
        fix: &'static str,
    },

    /// The GPU takes no more work from this process.
    #[error(
        "the GPU has failed ({what}): {cause}\n  to do: look for `Xid` in `dmesg` and at `nvidia-smi` (a GPU that is lost or whose memory is broken needs its machine restarted), then run the same command with --resume-from-checkpoint true; if it comes again at the same place, run with CUDA_LAUNCH_BLOCKING=1 and report what failed then"
    )]
    GpuLost { what: String, cause: String },

    /// A tensor operation refused its operands: a bug of ours or a device failure.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Usage {
            what: what.into(),
            fix: fix.into(),
        }
    }

    pub fn dataset(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Dataset {
            path: path.to_owned(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    pub fn model(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Model {
            path: path.to_owned(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    pub fn hub(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Hub {
            what: what.into(),
            fix: fix.into(),
        }
    }

    pub fn checkpoint(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Checkpoint {
            path: path.to_owned(),
            what: what.into(),
            fix: fix.into(),
        }
    }
}

/// What to do where a run needs more memory than its GPU has.
pub const SMALLER_STEPS: &str = "lower --per-device-train-batch-size (and raise --gradient-accumulation-steps to keep the \
                                 global batch), add --gradient-checkpointing";

impl Error {
    /// Says what wanted the memory that a GPU does not have.
    pub fn wanted_by(mut self, wanted: impl FnOnce() -> String) -> Self {
        if let Error::GpuMemory { what, .. } = &mut self {
            *what = wanted();
        }
        self
    }

    /// Says what helps where a GPU does not have so much memory.
    pub fn helped_by(mut self, remedy: &'static str) -> Self {
        if let Error::GpuMemory { fix, .. } = &mut self {
            *fix = remedy;
        }
        self
    }

    /// Names the optimizer step, unless the error does so itself.
    pub fn at_step(self, step: u64) -> Self {
        match self {
            named @ (Error::Training { .. } | Error::AtStep { .. } | Error::Stopped { .. }) => named,
            source => Error::AtStep {
                step,
                source: Box::new(source),
            },
        }
    }
}

/// `result.at("open", path)`: turns an `io::Error` into one that names the file.
pub trait IoContext<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

thread_local! {
    /// Whether this thread is inside of [`catch_foreign_panic`].
    static FOREIGN: Cell<bool> = const { Cell::new(false) };
}

/// Calls foreign code that may panic on damaged input, which is no bug of ours; a panic's text is the error.
pub fn catch_foreign_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let outside = FOREIGN.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    FOREIGN.set(outside);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        text.unwrap_or("no further reason").to_owned()
    })
}

/// Whether a panic of this thread will be caught and become an error: a panic hook leaves it alone.
pub fn panic_becomes_an_error() -> bool {
    FOREIGN.get()
}

fn kept_pictures(gib: f64) -> String {
    match gib > 0.0 {
        true => format!(", {gib:.2} GiB are for decoded pictures (--image-cache)"),
        false => String::new(),
    }
}

fn io_remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        NotFound => "\n  to do: check the spelling of the path",
        PermissionDenied | ReadOnlyFilesystem => "\n  to do: choose a place that you may read and write",
        StorageFull | QuotaExceeded => "\n  to do: free some space, or choose another disk with --output-dir",
        _ => "",
    }
}
