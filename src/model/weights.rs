//! safetensors files: what is in them, and its values as f32; and writing them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, View};

use crate::error::{Error, IoContext, Result};
use crate::ops::storage::values;

/// One or several safetensors files, opened; tensors are read when asked for.
pub struct Checkpoint {
    /// What messages name.
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Place of the first byte in the file.
    start: u64,
}

impl Checkpoint {
    /// Opens `dir/{stem}.safetensors`, or the shards that `dir/{stem}.safetensors.index.json` lists. Every tensor's name
    /// goes through `rename`.
    pub fn open(dir: &Path, stem: &str, rename: fn(&str) -> String) -> Result<Checkpoint> {
        let single = dir.join(format!("{stem}.safetensors"));
        let index = dir.join(format!("{stem}.safetensors.index.json"));
        let shards = match (single.exists(), index.exists()) {
            (true, _) => vec![single],
            (false, true) => shards_of(&index)?,
            (false, false) => return Err(no_weights(dir, stem)),
        };
        let mut checkpoint = Checkpoint {
            path: dir.to_owned(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for shard in shards {
            checkpoint.add(shard, rename)?;
        }
        Ok(checkpoint)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// How a tensor's values are stored, in safetensors' words: F32, BF16.
    pub fn dtype(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(|entry| format!("{:?}", entry.dtype))
    }

    /// Reads tensor `name` into `to`, converted to f32. Errors: no such tensor, wrong count, unreadable type.
    pub fn read_into(&self, name: &str, to: &mut [f32]) -> Result<()> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::model(
                &self.path,
                format!("it has no tensor {name}"),
                "choose a whole checkpoint",
            ));
        };
        let (width, convert): (usize, fn(&[u8]) -> f32) = match entry.dtype {
            Dtype::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Dtype::F16 => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::BF16 => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::F64 => (8, |b| {
                f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32
            }),
            other => {
                let what = format!("tensor {name} has the type {other:?}");
                return Err(Error::model(
                    &self.path,
                    what,
                    "save the checkpoint in f32, f16 or bf16",
                ));
            }
        };
        let count: usize = entry.shape.iter().product();
        if count != to.len() {
            let what = format!("tensor {name} of shape {:?} has not {} values", entry.shape, to.len());
            return Err(Error::model(
                &self.path,
                what,
                "choose a checkpoint that fits its config.json",
            ));
        }
        let (path, file) = &self.files[entry.file];
        const BLOCK: usize = 64 * 1024;
        to.par_chunks_mut(BLOCK).enumerate().try_for_each_init(
            || vec![0u8; BLOCK * 8],
            |buffer, (i, to)| {
                let bytes = &mut buffer[..to.len() * width];
                let start = entry.start + (i * BLOCK * width) as u64;
                file.read_exact_at(bytes, start).at("read", path)?;
                match entry.dtype {
                    Dtype::F32 => {
                        for (to, from) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                            *to = f32::from_le_bytes(*from);
                        }
                    }
                    _ => {
                        for (to, from) in to.iter_mut().zip(bytes.chunks_exact(width)) {
                            *to = convert(from);
                        }
                    }
                }
                Ok(())
            },
        )
    }

    /// A single whole number. None: there is no such tensor, or it is something else.
    pub fn whole_number(&self, name: &str) -> Result<Option<i64>> {
        match self.tensors.get(name) {
            Some(entry) if entry.dtype == Dtype::I64 && entry.shape.iter().product::<usize>() == 1 => {
                let (path, file) = &self.files[entry.file];
                let mut bytes = [0u8; 8];
                file.read_exact_at(&mut bytes, entry.start).at("read", path)?;
                Ok(Some(i64::from_le_bytes(bytes)))
            }
            _ => Ok(None),
        }
    }

    fn add(&mut self, path: PathBuf, rename: fn(&str) -> String) -> Result<()> {
        let file = File::open(&path).at("open", &path)?;
        let (data_start, metadata) = header(&file, &path)?;
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                file: index,
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data_start + info.data_offsets.0 as u64,
            };
            let name = rename(&name);
            if self.tensors.insert(name.clone(), entry).is_some() {
                let what = format!("it holds {name} twice");
                return Err(Error::model(&path, what, "remove one of the two"));
            }
        }
        self.files.push((path, file));
        Ok(())
    }
}

/// Writes named tensors as safetensors with the metadata that Hugging Face's loaders look for.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), Written(tensor)));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        },
        other => Error::model(path, format!("cannot be written: {other}"), "report this"),
    })
}

/// A contiguous f32 tensor, or i64, as safetensors wants it.
struct Written<'a>(&'a Tensor);

impl View for Written<'_> {
    fn dtype(&self) -> Dtype {
        match self.0.dtype() {
            DType::I64 => Dtype::I64,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.0.dtype() == DType::I64 {
            let whole = self.0.flatten_all().and_then(|flat| flat.to_vec1::<i64>());
            let whole = whole.expect("a tensor of i64");
            return Cow::Owned(whole.iter().flat_map(|x| x.to_le_bytes()).collect());
        }
        let values = values(self.0).expect("only contiguous f32 tensors are handed over");
        let mut bytes = vec![0u8; values.len() * 4];
        for (to, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values.iter()) {
            *to = x.to_le_bytes();
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * self.0.dtype().size_in_bytes()
    }
}

fn header(file: &File, path: &Path) -> Result<(u64, Metadata)> {
    let broken = |what: String| Error::model(path, what, "download or save the file again");
    let length = file.metadata().at("read", path)?.len();
    let mut size = [0u8; 8];
    file.read_exact_at(&mut size, 0)
        .map_err(|_| broken(format!("{length} bytes are no safetensors file")))?;
    let size = u64::from_le_bytes(size);
    let data_start = size.saturating_add(8);
    if data_start > length || size > 100_000_000 {
        return Err(broken(format!(
            "no safetensors file, or a truncated one ({length} bytes)"
        )));
    }
    let mut json = vec![0u8; size as usize];
    file.read_exact_at(&mut json, 8).at("read", path)?;
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|e| broken(format!("no safetensors file, its header is: {e}")))?;
    let end = metadata
        .tensors()
        .values()
        .map(|info| info.data_offsets.1)
        .max()
        .unwrap_or(0) as u64;
    if data_start + end > length {
        let missing = data_start + end - length;
        return Err(broken(format!("truncated: {missing} bytes are missing at its end")));
    }
    Ok((data_start, metadata))
}

fn shards_of(index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string(index).at("read", index)?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Error::model(index, format!("not valid JSON: {e}"), "download the checkpoint again"))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let mut shards: Vec<PathBuf> = map
        .into_iter()
        .flat_map(|map| map.values())
        .filter_map(|file| Some(index.with_file_name(file.as_str()?)))
        .collect();
    shards.sort();
    shards.dedup();
    match shards.is_empty() {
        false => Ok(shards),
        true => Err(Error::model(
            index,
            "it has no weight_map",
            "download the checkpoint again",
        )),
    }
}

fn no_weights(dir: &Path, stem: &str) -> Error {
    let pickles = [
        "pytorch_model.bin",
        "adapter_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
    ];
    let found: Vec<&str> = pickles.into_iter().filter(|name| dir.join(name).exists()).collect();
    let fix = match found.first() {
        Some(other) => format!("save it as safetensors first: dtrain does not read {other}"),
        None => "give the directory of a checkpoint that transformers' save_pretrained wrote".to_owned(),
    };
    Error::model(dir, format!("there is no {stem}.safetensors"), fix)
}
