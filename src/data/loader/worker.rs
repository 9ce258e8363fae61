//! One decoding thread: takes pictures from the queue until there are none.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::queue::{Made, Queue, Task};
use super::unfinished::Destination;
use super::{BadImage, LoaderConfig, LoaderStatistics, Samples};
use crate::data::augment::SampleName;
use crate::data::transform::{Durations, Keeping, Picture, Stageable, StagedSample, Workplace};
use crate::error::Error;
use crate::ops::parts::Part;
use crate::ops::staging::Staging;
use crate::recipe::OnBadImage;

pub(super) fn work(queue: &Queue, samples: &dyn Samples, config: &LoaderConfig) {
    let outcome = catch_unwind(AssertUnwindSafe(|| take_tasks(queue, samples, config)));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => queue.fail(cause),
        Err(panic) => queue.fail(bug("the plan of the batches", &*panic)),
    }
}

fn take_tasks(queue: &Queue, samples: &dyn Samples, config: &LoaderConfig) -> std::result::Result<(), Error> {
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
        encoded,
        destination,
        place,
    }) = queue.take()
    {
        let row = draw.row as usize;
        let mut spent = LoaderStatistics::default();
        let made = catch_unwind(AssertUnwindSafe(|| {
            let name = SampleName {
                seed: config.seed,
                epoch,
                sample: draw.name(),
            };
            let source = Source {
                samples,
                config,
                row,
                read: encoded,
            };
            let made = match destination {
                Destination::Sample(part) => source.sample(name, part, &mut workplace, &mut spent),
                Destination::Staging(staging) => source.staged(name, &staging, &mut workplace, &mut spent),
            };
            match made {
                Ok((staged, durations)) => {
                    spent.images = 1;
                    spent.decode = durations.decode;
                    spent.resample = durations.resample;
                    Made::Sample {
                        label: samples.label(row),
                        staged,
                    }
                }
                Err(Error::Image { at, what }) => refuse(row, at, what, config),
                Err(fatal) => Made::Failure(fatal),
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

/// One row's picture, wherever it is.
struct Source<'a> {
    samples: &'a dyn Samples,
    config: &'a LoaderConfig,
    row: usize,
    /// Its file, if it was read ahead.
    read: Option<Bytes>,
}

type Result = std::result::Result<(Option<StagedSample>, Durations), Error>;

impl Source<'_> {
    /// Makes the sample.
    fn sample(&self, name: SampleName, part: Part, workplace: &mut Workplace, spent: &mut LoaderStatistics) -> Result {
        let cache = self.config.pictures.as_deref();
        let encoded;
        let picture = match cache.and_then(|cache| cache.get(self.row)) {
            Some(whole) => Picture::Kept(whole),
            None => {
                encoded = self.encoded()?;
                spent.bytes = encoded.len() as u64;
                match cache {
                    Some(cache) => Picture::ToKeep(&encoded, cache, self.row),
                    None => Picture::Encoded(&encoded),
                }
            }
        };
        let transform = &self.config.transform;
        part.fill(|sample_chw| transform.apply_to(picture, name, workplace, sample_chw))
            .map(|durations| (None, durations))
            .map_err(|what| self.undecodable(what))
    }

    /// Puts what a device needs for the sample into a batch.
    fn staged(
        &self,
        name: SampleName,
        staging: &Staging,
        workplace: &mut Workplace,
        spent: &mut LoaderStatistics,
    ) -> Result {
        let host = self.config.pictures.as_deref();
        let device = self.config.feed.as_deref().and_then(|feed| feed.pictures());
        let encoded;
        let there = device.and_then(|device| device.get(self.row));
        let picture = match (there, host.and_then(|host| host.get(self.row))) {
            (Some(whole), _) => Stageable::OnDevice(whole),
            (None, Some(whole)) => Stageable::Kept(whole),
            (None, None) => {
                encoded = self.encoded()?;
                spent.bytes = encoded.len() as u64;
                let row = self.row;
                Stageable::Encoded(&encoded, Keeping { row, host, device })
            }
        };
        self.config
            .transform
            .stage(picture, name, workplace, staging)
            .map(|(staged, durations)| (Some(staged), durations))
            .map_err(|what| self.undecodable(what))
    }

    fn encoded(&self) -> std::result::Result<Bytes, Error> {
        self.read.clone().map_or_else(|| self.samples.encoded(self.row), Ok)
    }

    fn undecodable(&self, what: String) -> Error {
        Error::Image {
            at: self.samples.origin(self.row),
            what,
        }
    }
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

pub(super) fn bug(at: &str, panic: &(dyn Any + Send)) -> Error {
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
