//! Checkpoints: `checkpoint-<step>/`, the model in Hugging Face's layout and what resuming needs beside it.
//!
//! `dtrain_state.toml` holds everything that is text, `optimizer.safetensors` the flat buffers: the trained values and
//! both moments, running statistics where a model has them, and the averages of a run that averages, f32, bit for bit. Random
//! numbers have no state. Which step may be resumed how is left to `resume`.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{kept, whole};
use crate::error::{Error, IoContext, Result};
use crate::model::{Statistics, weights};
use crate::optim::{AdamW, GradScaler, MovingAverage, Parameters};
use crate::recipe::{Precision, Recipe};
use crate::report::TrainerState;

/// Version of what is described here; another one is not read.
pub const FORMAT: u32 = 1;
const STATE_FILE: &str = "dtrain_state.toml";
const BUFFERS_STEM: &str = "optimizer";

/// Where a run stands, without its buffers: `dtrain_state.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub format: u32,
    pub dtrain_version: String,
    pub world: usize,
    pub global_batch: usize,
    pub train_samples: usize,
    /// What the run computed in, which is not what the recipe asks for where the device cannot; none of older checkpoints.
    pub computed_in: Option<Precision>,
    /// The fingerprint of a block shuffle; none of other orders.
    pub block_order: Option<String>,
    /// Updates that the optimizer did: fewer than steps where a step had no readable image.
    pub optimizer_steps: u64,
    /// The loss scale of a run in fp16.
    pub scaler: Option<GradScaler>,
    /// Time spent on training so far.
    pub seconds: f64,
    pub losses: LossSums,
    /// Batches that each batch normalisation has taken in.
    #[serde(default)]
    pub batches_tracked: Vec<i64>,
    pub classes: Vec<String>,
    /// Names and shapes of the trained parameters in the buffers' order: `classifier.bias [10]`.
    pub parameters: Vec<String>,
    pub recipe: Recipe,
    pub state: TrainerState,
}

/// Sums of the steps' losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSums {
    pub since_log: f64,
    pub steps_since_log: u64,
    pub whole: f64,
    pub steps: u64,
}

/// The flat buffers of a run, each [n] f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffers {
    pub values: Vec<f32>,
    pub first_moments: Vec<f32>,
    pub second_moments: Vec<f32>,
    /// Running statistics, of another length; empty if the model has none.
    pub statistics: Vec<f32>,
    /// Averages of values and statistics; empty if the run averages nothing.
    pub average: Vec<f32>,
    pub average_statistics: Vec<f32>,
}

impl Buffers {
    /// Values and statistics of the model that was evaluated and saved: the averages, if there are any.
    pub fn of_model(&self) -> (&[f32], &[f32]) {
        match self.average.is_empty() {
            true => (&self.values, &self.statistics),
            false => (&self.average, &self.average_statistics),
        }
    }
}

/// How parameters are named in [`Position::parameters`].
pub fn parameter_names(parameters: &Parameters) -> Vec<String> {
    parameters
        .entries
        .iter()
        .map(|entry| format!("{} {:?}", entry.name, entry.shape))
        .collect()
}

/// Writes the checkpoint of `position`; `model_files` adds the model's own files to the directory that it is given.
pub fn write(
    output_dir: &Path,
    position: &Position,
    parameters: &Parameters,
    optimizer: &AdamW,
    statistics: Option<&Statistics>,
    average: Option<&MovingAverage>,
    model_files: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let path = kept::path(output_dir, position.state.global_step);
    whole::directory(&path, |directory| {
        model_files(directory)?;
        let buffers = [
            ("first_moments", &optimizer.first_moments),
            ("second_moments", &optimizer.second_moments),
            ("values", &parameters.values),
        ];
        let statistics = statistics.map(|statistics| ("statistics", &statistics.values));
        let averages = average.map_or(&[][..], MovingAverage::means);
        let buffers: Vec<(String, Tensor)> = buffers
            .into_iter()
            .chain(statistics)
            .chain(["average", "average_statistics"].into_iter().zip(averages))
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        weights::write(&directory.join(format!("{BUFFERS_STEM}.safetensors")), &buffers)?;
        put(directory, "trainer_state.json", &position.state.to_json())?;
        put(directory, "dtrain_run.toml", &position.recipe.to_toml())?;
        put(directory, STATE_FILE, &position_text(position))
    })?;
    Ok(path)
}

/// The text of `dtrain_state.toml`.
pub fn position_text(position: &Position) -> String {
    toml::to_string(position).expect("plain values")
}

/// Writes a text file into `directory`.
pub fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).at("write", &path)
}

/// Reads where a checkpoint stands. Errors: no checkpoint of dtrain, or one of another version.
pub fn read_position(checkpoint: &Path) -> Result<Position> {
    let path = checkpoint.join(STATE_FILE);
    if !path.exists() {
        return Err(Error::checkpoint(
            checkpoint,
            match checkpoint.exists() {
                true => format!("there is no {STATE_FILE} in it"),
                false => "there is no such directory".to_owned(),
            },
            "give the directory of a checkpoint that dtrain wrote, or start without --resume-from-checkpoint",
        ));
    }
    let text = fs::read_to_string(&path).at("read", &path)?;
    parse_position(checkpoint, &text)
}

/// The same from the text of the file.
pub fn parse_position(checkpoint: &Path, text: &str) -> Result<Position> {
    let broken = |what: String| Error::checkpoint(checkpoint, what, "resume from an earlier checkpoint");
    let table: toml::Table = text
        .parse()
        .map_err(|error| broken(format!("{STATE_FILE} cannot be read: {error}")))?;
    match table.get("format").and_then(toml::Value::as_integer) {
        Some(format) if format == i64::from(FORMAT) => {}
        format => {
            let format = format.map_or("unknown".to_owned(), |format| format.to_string());
            return Err(Error::checkpoint(
                checkpoint,
                format!("it has format {format}, and this version of dtrain reads format {FORMAT}"),
                "resume with the version that wrote it",
            ));
        }
    }
    table
        .try_into()
        .map_err(|error| broken(format!("{STATE_FILE} cannot be read: {error}")))
}

/// Reads the buffers of a checkpoint, each of `count` values. Errors: missing, truncated or of another length.
pub fn read_buffers(checkpoint: &Path, count: usize) -> Result<Buffers> {
    let broken = |what: String| Error::checkpoint(checkpoint, what, "resume from an earlier checkpoint");
    let file = weights::Checkpoint::open(checkpoint, BUFFERS_STEM, str::to_owned).map_err(|e| broken(e.to_string()))?;
    let read = |name: &str| {
        if file.shape(name) != Some(&[count]) {
            let found = file
                .shape(name)
                .map_or("nothing".to_owned(), |shape| format!("shape {shape:?}"));
            return Err(broken(format!(
                "{name} in {BUFFERS_STEM}.safetensors has {found}, not [{count}]"
            )));
        }
        let mut values = vec![0.0; count];
        file.read_into(name, &mut values)?;
        Ok(values)
    };
    let if_there = |name: &str| -> Result<Vec<f32>> {
        let mut values = vec![0.0; file.shape(name).map_or(0, |shape| shape.iter().product())];
        if file.shape(name).is_some() {
            file.read_into(name, &mut values)?;
        }
        Ok(values)
    };
    Ok(Buffers {
        statistics: if_there("statistics")?,
        average: if_there("average")?,
        average_statistics: if_there("average_statistics")?,
        values: read("values")?,
        first_moments: read("first_moments")?,
        second_moments: read("second_moments")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    use crate::ops::storage::update;
    use crate::optim::parameters::Layout;
    use crate::optim::{AdamWConfig, Decay};

    fn position(step: u64) -> Position {
        Position {
            format: FORMAT,
            dtrain_version: "0".into(),
            world: 2,
            global_batch: 32,
            train_samples: 800,
            computed_in: (step == 7).then_some(Precision::Bf16),
            block_order: (step == 7).then(|| "ffff000000000001".into()),
            optimizer_steps: step,
            scaler: (step == 7).then(GradScaler::new),
            losses: LossSums {
                since_log: 0.1 + 0.2,
                steps_since_log: 3,
                whole: 1.0 / 3.0,
                steps: 7,
            },
            seconds: 1.5,
            batches_tracked: vec![3, 1 << 60],
            classes: vec!["ant".into(), "bee".into()],
            parameters: vec!["w [2, 3]".into()],
            recipe: crate::recipe::built_in("vit-lora").unwrap(),
            state: TrainerState {
                global_step: step,
                ..TrainerState::default()
            },
        }
    }

    fn trained() -> (Parameters, AdamW) {
        let mut layout = Layout::default();
        layout.push("w", &[2, 3], Decay::Decayed);
        let parameters = Parameters::new(layout, &Device::Cpu).unwrap();
        let odd = [-0.0, 1e-45, f32::MIN_POSITIVE, -1.0 / 3.0, f32::MAX, 0.1];
        update(&parameters.values, |values| values.copy_from_slice(&odd)).unwrap();
        let optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
        update(&optimizer.second_moments, |values| values.fill(1e-12)).unwrap();
        (parameters, optimizer)
    }

    #[test]
    fn a_checkpoint_gives_back_every_bit() {
        let place = tempfile::tempdir().unwrap();
        let (parameters, optimizer) = trained();
        let path = write(place.path(), &position(7), &parameters, &optimizer, None, None, |d| {
            put(d, "model", "m")
        })
        .unwrap();
        assert_eq!(read_position(&path).unwrap(), position(7));
        let buffers = read_buffers(&path, 6).unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            bits(&buffers.values),
            bits(&crate::ops::storage::values(&parameters.values).unwrap())
        );
        assert_eq!(
            (buffers.first_moments, buffers.second_moments),
            (vec![0.0; 6], vec![1e-12; 6])
        );
        assert!(read_buffers(&path, 5).unwrap_err().to_string().contains("[6], not [5]"));
    }

    #[test]
    fn broken_checkpoints_are_errors() {
        let place = tempfile::tempdir().unwrap();
        let (parameters, optimizer) = trained();
        let path = write(place.path(), &position(7), &parameters, &optimizer, None, None, |_| {
            Ok(())
        })
        .unwrap();
        assert!(
            read_position(place.path())
                .unwrap_err()
                .to_string()
                .contains("no dtrain_state.toml")
        );
        let buffers = path.join("optimizer.safetensors");
        let whole = fs::read(&buffers).unwrap();
        fs::write(&buffers, &whole[..whole.len() - 4]).unwrap();
        assert!(read_buffers(&path, 6).is_err());
        let state = fs::read_to_string(path.join(STATE_FILE)).unwrap();
        put(&path, STATE_FILE, &state.replace("format = 1", "format = 2")).unwrap();
        assert!(read_position(&path).unwrap_err().to_string().contains("format 2"));
        put(&path, STATE_FILE, &state[..state.len() / 2]).unwrap();
        assert!(read_position(&path).is_err());
    }
}
