//! One decoding thread: takes pictures from the queue until there are none.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::queue::{Made, Queue, Task};
use super::{BadImage, LoaderConfig, LoaderStatistics, Samples};
use crate::data::augment::SampleName;
use crate::data::transform::{Picture, Workplace};
use crate::error::Error;
use crate::recipe::OnBadImage;

pub(super) fn work(queue: &Queue, samples: &dyn Samples, config: &LoaderConfig) {
    let outcome = catch_unwind(AssertUnwindSafe(|| take_tasks(queue, samples, config)));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => queue.fail(cause),
        Err(panic) => queue.fail(bug("the plan of the batches", &*panic)),
    }
}

fn take_tasks(queue: &Queue, samples: &dyn Samples, config: &LoaderConfig) -> Result<(), Error> {
    let new_workplace = || {
        Workplace::new().map_err(|what| Error::Image {
            at: "decoding thread".into(),
            what,
        })
    };
    let mut workplace = new_workplace()?;
    while let Some(Task {
        epoch,
        draw,
        part,
        place,
    }) = queue.take()
    {
        let row = draw.row as usize;
        let mut spent = LoaderStatistics::default();
        let made = catch_unwind(AssertUnwindSafe(|| {
            let cache = config.pictures.as_deref();
            let encoded;
            let picture = match cache.and_then(|cache| cache.get(row)) {
                Some(whole) => Picture::Kept(whole),
                None => {
                    encoded = match samples.encoded(row) {
                        Ok(encoded) => encoded,
                        Err(Error::Image { at, what }) => return refuse(row, at, what, config),
                        Err(fatal) => return Made::Failure(fatal),
                    };
                    spent.bytes = encoded.len() as u64;
                    match cache {
                        Some(cache) => Picture::ToKeep(&encoded, cache, row),
                        None => Picture::Encoded(&encoded),
                    }
                }
            };
            spent.images = 1;
            let name = SampleName {
                seed: config.seed,
                epoch,
                sample: draw.name(),
            };
            let transform = &config.transform;
            match part.fill(|sample_chw| transform.apply_to(picture, name, &mut workplace, sample_chw)) {
                Ok(durations) => {
                    spent.decode = durations.decode;
                    spent.resample = durations.resample;
                    Made::Sample {
                        label: samples.label(row),
                    }
                }
                Err(cause) => refuse(row, samples.origin(row), cause, config),
            }
        }));
        let made = match made {
            Ok(made) => made,
            Err(panic) => {
                workplace = new_workplace()?; // what the old one holds is unknown
                Made::Failure(bug(&samples.origin(row), &*panic))
            }
        };
        queue.put(place, made, spent);
    }
    Ok(())
}

fn refuse(row: usize, origin: String, cause: String, config: &LoaderConfig) -> Made {
    match config.on_bad_image {
        OnBadImage::Skip => Made::Skipped(BadImage { row, origin, cause }),
        OnBadImage::Error => Made::Failure(Error::Image {
            at: origin,
            what: cause,
        }),
    }
}

fn bug(at: &str, panic: &(dyn Any + Send)) -> Error {
    let what = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "no message",
    };
    Error::Image {
        at: at.into(),
        what: format!("the decoding thread panicked: {what}; this is a bug of dtrain's, please report it"),
    }
}
