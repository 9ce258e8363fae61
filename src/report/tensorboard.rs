//! TensorBoard's event files: the scalars of a run, under the names and in the folder that transformers' callback gives them.
//!
//! A file is a sequence of TFRecords: length (u64, little-endian), its masked CRC-32C, an `Event` message, its masked CRC-32C.
//! Of the messages (event.proto, summary.proto, tensor.proto of TensorFlow) only the few fields that are needed are written
//! here, by hand: a protobuf compiler would be larger than they are.

use std::fs::{File, create_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::LogEntry;
use crate::error::{IoContext, Result};

/// An event file that is being written; whatever was appended is in the file.
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A new file in `$TENSORBOARD_LOGGING_DIR`, or in `runs/MONTHDAY_TIME_HOST` of the output directory.
    pub fn create(output_dir: &Path, host: &str) -> Result<EventFile> {
        let directory = match std::env::var_os("TENSORBOARD_LOGGING_DIR").filter(|name| !name.is_empty()) {
            Some(directory) => PathBuf::from(directory),
            None => {
                let began = chrono::Local::now().format("%b%d_%H-%M-%S");
                output_dir.join("runs").join(format!("{began}_{host}"))
            }
        };
        create_dir_all(&directory).at("create", &directory)?;
        let (seconds, process) = (unix_time() as u64, std::process::id());
        let path = directory.join(format!("events.out.tfevents.{seconds}.{host}.{process}.0"));
        let file = File::create(&path).at("create", &path)?;
        let mut events = EventFile { file, path };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        events.append(0, version)?;
        Ok(events)
    }

    /// A text, shown as such by TensorBoard.
    pub fn text(&mut self, tag: &str, text: &str) -> Result<()> {
        let mut plugin = Message::default();
        plugin.bytes(1, b"text");
        let mut metadata = Message::default();
        metadata.message(1, plugin);
        let (mut dimension, mut shape) = (Message::default(), Message::default());
        dimension.integer(1, 1);
        shape.message(2, dimension);
        let mut tensor = Message::default();
        tensor.integer(1, DT_STRING);
        tensor.message(2, shape);
        tensor.bytes(8, text.as_bytes());
        let mut value = Message::default();
        value.bytes(1, format!("{tag}/text_summary").as_bytes());
        value.message(8, tensor);
        value.message(9, metadata);
        self.summary(0, [value])
    }

    /// Every number of an entry of the history, at its step: `train/loss`, `eval/accuracy`, …
    pub fn logged(&mut self, entry: &LogEntry) -> Result<()> {
        let (step, scalars) = scalars(entry);
        let values = scalars.iter().map(|(tag, number)| {
            let mut value = Message::default();
            value.bytes(1, tag.as_bytes());
            value.float(2, *number as f32);
            value
        });
        self.summary(step, values)
    }

    fn summary(&mut self, step: u64, values: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut summary = Message::default();
        values.into_iter().for_each(|value| summary.message(1, value));
        let mut event = Message::default();
        event.message(5, summary);
        self.append(step, event)
    }

    fn append(&mut self, step: u64, rest: Message) -> Result<()> {
        let mut event = Message::default();
        event.double(1, unix_time());
        event.integer(2, step);
        event.0.extend(rest.0);
        self.file.write_all(&record(&event.0)).at("write", &self.path)
    }
}

/// `DataType` of strings in tensor.proto's enumeration.
const DT_STRING: u64 = 7;

/// The step of an entry, and its numbers under transformers' tags.
fn scalars(entry: &LogEntry) -> (u64, Vec<(String, f64)>) {
    let entry = serde_json::to_value(entry).expect("plain data");
    let mut step = 0;
    let mut scalars = Vec::new();
    for (name, value) in entry.as_object().into_iter().flatten() {
        match (name.as_str(), name.strip_prefix("eval_"), value.as_f64()) {
            ("step", ..) => step = value.as_u64().unwrap_or(0),
            (_, Some(figure), Some(number)) => scalars.push((format!("eval/{figure}"), number)),
            (_, None, Some(number)) => scalars.push((format!("train/{name}"), number)),
            _ => {}
        }
    }
    (step, scalars)
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

/// TFRecord's variant, which is not itself the checksum of what it stands in.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn unix_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A protobuf message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
    fn tag(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.tag(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn message(&mut self, field: u64, message: Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EvaluationEntry, Figures, LossEntry};
    use super::*;

    /// As tensorboard 2.20 wrote and read them: `tests/fixtures/tensorboard_records.py`.
    #[test]
    fn records_are_those_of_tensorboard() {
        let mut version = Message::default();
        version.double(1, 1.5);
        version.bytes(3, b"brain.Event:2");
        let expected = include_bytes!("../../tests/fixtures/tensorboard_version.bin");
        assert_eq!(record(&version.0), expected);
        let mut value = Message::default();
        value.bytes(1, b"train/loss");
        value.float(2, 0.25);
        let (mut summary, mut event) = (Message::default(), Message::default());
        summary.message(1, value);
        event.double(1, 1.5);
        event.integer(2, 300);
        event.message(5, summary);
        let expected = include_bytes!("../../tests/fixtures/tensorboard_scalar.bin");
        assert_eq!(record(&event.0), expected);
    }

    #[test]
    fn tags_are_those_of_transformers() {
        let loss = LogEntry::Loss(LossEntry {
            epoch: 0.5,
            grad_norm: 2.0,
            learning_rate: 1e-3,
            loss: 0.25,
            step: 300,
        });
        let (step, mut found) = scalars(&loss);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let tag = |tag: &str, number| (tag.to_owned(), number);
        assert_eq!(step, 300);
        assert_eq!(
            found,
            [
                tag("train/epoch", 0.5),
                tag("train/grad_norm", 2.0),
                tag("train/learning_rate", 1e-3),
                tag("train/loss", 0.25)
            ]
        );
        let evaluation = LogEntry::Evaluation(EvaluationEntry {
            epoch: 1.0,
            figures: Figures {
                accuracy: 0.75,
                ..Figures::default()
            },
            eval_runtime: 1.0,
            eval_samples_per_second: 2.0,
            eval_steps_per_second: 3.0,
            step: 7,
        });
        let (step, found) = scalars(&evaluation);
        assert!(step == 7 && found.contains(&tag("eval/accuracy", 0.75)) && found.contains(&tag("eval/runtime", 1.0)));
        assert!(found.contains(&tag("train/epoch", 1.0)));
    }
}
