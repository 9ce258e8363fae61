//! How pictures come onto the device: batches that threads of the host put together are copied and made into samples there,
//! beside the step that computes.
//!
//! A device has one piece of memory for that: a landing place for the batch that is copied, and behind it room for pictures
//! that stay, from which later samples are made without any copy. On a GPU all of it is asked for and runs by itself
//! (`cuda::intake` says in which order); on a CPU it is done at once, which the tests of what lies above are glad of.

use std::sync::Mutex;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::preprocess::{Cut, Picture, SLACK, Values, preprocess_pictures};
use super::staging::{Contents, Staged, Staging};
use super::storage::{refused, tensor, update};
use crate::error::Result;

/// One device's.
pub struct Intake {
    /// Bytes of the largest staged batch, and of the pictures that stay.
    landing: usize,
    kept: usize,
    side: Side,
}

enum Side {
    /// The memory.
    Cpu(Mutex<Vec<u8>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::intake::Intake>),
}

/// Where a batch's samples are made; used over and over.
pub struct Slot {
    pixels_bchw: Tensor,
    #[cfg(feature = "cuda")]
    cuda: Option<(Tensor, cuda::intake::Marks)>,
}

/// A picture of a batch that stays: `bytes` bytes, from a place of the landing place to one of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub from: usize,
    pub to: usize,
    pub bytes: usize,
}

impl Intake {
    /// `landing`: bytes of the largest staged batch; `kept`: bytes for pictures that stay. Error: the device is full.
    pub fn open(device: &Device, landing: usize, kept: usize) -> Result<Intake> {
        // Pictures that stay begin where tables could, too.
        let landing = landing.next_multiple_of(64);
        let side = match device {
            Device::Cpu => Side::Cpu(Mutex::new(vec![0; landing + kept + SLACK])),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Side::Cuda(Box::new(cuda::intake::Intake::open(device, landing, kept)?)),
            other => return Err(refused(format!("no intake for {other:?}"))),
        };
        Ok(Intake { landing, kept, side })
    }

    /// Where in the memory the pictures that stay have their room, and how many bytes that is.
    pub fn room(&self) -> (usize, usize) {
        (self.landing, self.kept)
    }

    /// Room for samples; height and width of one. Error: the device is full.
    pub fn slot(&self, pictures: usize, size: (usize, usize), dtype: DType) -> Result<Slot> {
        match &self.side {
            Side::Cpu(_) if dtype == DType::F32 => Ok(Slot {
                pixels_bchw: tensor(vec![0.0; pictures * 3 * size.0 * size.1], (pictures, 3, size.0, size.1))?,
                #[cfg(feature = "cuda")]
                cuda: None,
            }),
            Side::Cpu(_) => Err(refused(format!("samples in {dtype:?} on a CPU"))),
            #[cfg(feature = "cuda")]
            Side::Cuda(intake) => {
                let (pixels_bchw, labels_b, marks) = intake.slot(pictures, size, dtype)?;
                Ok(Slot {
                    pixels_bchw,
                    cuda: Some((labels_b, marks)),
                })
            }
        }
    }

    /// Asks for the samples of a staged batch, in the order of `staged`. The staged memory is in use until
    /// [`Staging::wait_for_copy`] returns, and whoever uses the samples calls [`Intake::admit`] before.
    pub fn prepare(
        &self,
        staging: &mut Staging,
        (staged, labels): (&[Staged], &[u32]),
        values: &Values,
        slot: &Slot,
        keep: &[Keep],
    ) -> Result<Contents> {
        let contents = staging.complete(staged, labels, values);
        assert!(contents.bytes <= self.landing, "a batch larger than its landing place");
        for Keep { from, to, bytes } in keep {
            let end = self.landing + self.kept;
            assert!(
                from + bytes <= contents.bytes && *to >= self.landing && to + bytes <= end,
                "pictures that stay"
            );
        }
        match &self.side {
            Side::Cpu(memory) => {
                let mut memory = memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                memory[..contents.bytes].copy_from_slice(staging.bytes(&contents));
                let pictures: Vec<(Picture, Cut)> = staged.iter().map(|staged| (staged.picture, staged.cut)).collect();
                let samples = slot.pixels(pictures.len())?;
                let (height, width) = staging.size();
                update(&samples, |samples| {
                    preprocess_pictures(&memory, &pictures, (height, width), values, samples);
                    for (sample_chw, staged) in samples.chunks_exact_mut(3 * height * width).zip(staged) {
                        if let Some(erased) = staged.erased(&memory) {
                            erased.apply(sample_chw, (width, height));
                        }
                    }
                })?;
                for Keep { from, to, bytes } in keep {
                    memory.copy_within(*from..from + bytes, *to);
                }
            }
            #[cfg(feature = "cuda")]
            Side::Cuda(intake) => {
                let (labels_b, marks) = slot.cuda.as_ref().expect("a slot of this intake");
                intake.prepare(staging, &contents, (&slot.pixels_bchw, labels_b), marks, keep)?;
            }
        }
        Ok(contents)
    }

    /// Before a batch is used: what is asked of the device from now on comes after its samples are made.
    pub fn admit(&self, slot: &Slot) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Side::Cuda(intake), Some((_, marks))) = (&self.side, &slot.cuda) {
            return intake.admit(marks);
        }
        let _ = slot;
        Ok(())
    }

    /// When a batch is not needed any more: its samples may be overwritten once all that was asked of the device is done.
    pub fn release(&self, slot: &Slot) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Side::Cuda(intake), Some((_, marks))) = (&self.side, &slot.cuda) {
            return intake.release(marks);
        }
        let _ = slot;
        Ok(())
    }

    /// Waits until nothing is under way: before slots or staged memory are freed.
    pub fn settle(&self) {
        #[cfg(feature = "cuda")]
        if let Side::Cuda(intake) = &self.side {
            intake.settle();
        }
    }
}

impl Slot {
    /// The first `pictures` samples.
    pub fn pixels(&self, pictures: usize) -> Result<Tensor> {
        Ok(self.pixels_bchw.narrow(0, 0, pictures)?)
    }

    /// Their labels on the device; None on a CPU.
    pub fn labels(&self, pictures: usize) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some((labels_b, _)) = &self.cuda {
            return Ok(Some(labels_b.narrow(0, 0, pictures)?));
        }
        let _ = pictures;
        Ok(None)
    }

    /// Time that making the last samples took on the device, once that is over; None: nobody knows.
    pub fn spent(&self) -> Result<Option<Duration>> {
        #[cfg(feature = "cuda")]
        if let Some((_, marks)) = &self.cuda {
            return marks.spent();
        }
        Ok(None)
    }
}
