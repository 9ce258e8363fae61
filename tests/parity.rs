//! The model against PyTorch, transformers and peft: logits, gradients, losses and norms of whole training runs.
//!
//! The numbers were made on the CPU in f32 (reference/parity.py of the reference material). Their own rounding is of the
//! order of 1e-6; a run of several steps amplifies it, hence the tolerances that stand with each comparison.

#[path = "parity/bf16.rs"]
mod bf16;
mod common;
#[path = "parity/resnet.rs"]
mod resnet;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use dtrain::model::{LoraConfig, Training, Vit, VitConfig, names};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::optim::{AdamW, AdamWConfig};
use dtrain::recipe::AdapterFormat;
use serde_json::Value;

#[test]
fn lora_logits_are_pytorchs() {
    let Some(case) = Case::open() else { return };
    let mut vit = case.lora();
    // 1e-4 of logits around 1: twelve layers of f32.
    let expected = &case.tensors("initial_logits.safetensors")["logits"];
    let inferred = vit.infer(&case.pixels(0..8)).unwrap();
    close("inferred logits", &inferred, expected, 1e-4);
    let trained = vit.forward(&case.pixels(0..8), None).unwrap();
    close("training logits", &trained, expected, 1e-4);
}

#[test]
fn lora_first_gradients_are_pytorchs() {
    let Some(case) = Case::open() else { return };
    let mut vit = case.lora();
    let rows = [0..2, 2..4];
    for rows in rows {
        case.accumulate(&mut vit, rows, 4);
    }
    vit.parameters().clip_gradients(1.0).unwrap();
    let expected = case.tensors("first_step_gradients_after_clip.safetensors");
    assert_eq!(expected.len(), vit.parameters().entries.len());
    for (name, expected) in &expected {
        let name = names::adapter_in_memory(name);
        let at = vit
            .parameters()
            .position(&name)
            .unwrap_or_else(|| panic!("no parameter {name}"));
        relatively_close(&name, &vit.parameters().gradient(at).unwrap(), expected, 1e-4);
    }
}

#[test]
fn lora_runs_follow_pytorchs() {
    let Some(case) = Case::open() else { return };
    let mut vit = case.lora();
    case.follow(&mut vit, "trace.json", Decay(0.0), 24);
    let expected = &case.tensors("final_logits.safetensors")["logits"];
    // Six steps at a high learning rate later, rounding has grown tenfold.
    close("final logits", &vit.infer(&case.pixels(0..8)).unwrap(), expected, 1e-3);

    let mut vit = case.lora();
    case.follow(&mut vit, "trace_cosine_warmup2_wd0.1_clip0.1.json", Decay(0.1), 24);
    let mut vit = case.lora();
    case.follow(&mut vit, "trace_uneven.json", Decay(0.0), 11);
}

#[test]
fn full_fine_tuning_follows_pytorch() {
    let Some(case) = Case::open() else { return };
    let mut vit = case.vit(&Training::Full);
    let head = case.tensors("initial_adapter/adapter_model.safetensors");
    for leaf in ["weight", "bias"] {
        let at = vit.parameters().position(&format!("classifier.{leaf}")).unwrap();
        let to = vit.parameters().value(at).unwrap();
        let from = head[&names::adapter_classifier(leaf)]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        dtrain::ops::storage::update(&to, |to| to.copy_from_slice(&from)).unwrap();
    }
    let trace = case.json("trace_full_finetune.json");
    for rows in [0..2, 2..4] {
        case.accumulate(&mut vit, rows, 4);
    }
    vit.parameters().clip_gradients(1.0).unwrap();
    for (i, entry) in vit.parameters().entries.iter().enumerate() {
        let gradient = vit.parameters().gradient(i).unwrap();
        let norm = gradient
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            .sqrt() as f64;
        let expected = trace["first_step_gradient_norms"][names::in_memory(&entry.name)]
            .as_f64()
            .unwrap();
        // A key's bias has no gradient but rounding: softmax does not see what is added to all scores.
        let tolerance = if entry.name.ends_with("key.bias") {
            1e-6
        } else {
            1e-4 * expected
        };
        assert!(
            (norm - expected).abs() <= tolerance,
            "{}: {norm} for {expected}",
            entry.name
        );
    }
    vit.parameters().zero_gradients().unwrap();
    case.follow(&mut vit, "trace_full_finetune.json", Decay(0.01), 24);
}

#[test]
fn adapters_come_back_as_they_were_in_both_spellings() {
    let Some(case) = Case::open() else { return };
    let vit = case.lora();
    let flat = vit.parameters().values.to_vec1::<f32>().unwrap();
    for (format, module) in [(AdapterFormat::V4, "query"), (AdapterFormat::V5, "q_proj")] {
        let dir = tempfile::tempdir().unwrap();
        vit.save_adapter(dir.path(), format, "../models/deit-tiny").unwrap();
        let config = LoraConfig::read(dir.path()).unwrap();
        assert_eq!(config, case.lora_config());
        let mut other = case.vit(&Training::Lora(config));
        other.load_adapter(dir.path()).unwrap();
        assert_eq!(other.parameters().values.to_vec1::<f32>().unwrap(), flat);
        let written = std::fs::read_to_string(dir.path().join("adapter_config.json")).unwrap();
        assert!(written.contains(&format!("\"{module}\"")), "{written}");
        if format == AdapterFormat::V5 {
            let theirs = read(&case.dir.join("initial_adapter/adapter_model.safetensors"));
            let ours = read(&dir.path().join("adapter_model.safetensors"));
            assert!(theirs.keys().eq(ours.keys()));
            let theirs = case.json("initial_adapter/adapter_config.json");
            let ours: Value = serde_json::from_str(&written).unwrap();
            for (name, value) in ours.as_object().unwrap() {
                assert_eq!(value, &theirs[name], "{name}");
            }
        }
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_an_error_that_names_the_key() {
    let Some(case) = Case::open() else { return };
    let adapter = case.dir.join("initial_adapter");
    let config = std::fs::read(adapter.join("adapter_config.json")).unwrap();
    let complain = |tensors: &[(String, Tensor)]| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("adapter_config.json"), &config).unwrap();
        dtrain::model::weights::write(&dir.path().join("adapter_model.safetensors"), tensors).unwrap();
        let mut vit = case.vit(&Training::Lora(case.lora_config()));
        vit.load_adapter(dir.path()).unwrap_err().to_string()
    };
    let all: Vec<(String, Tensor)> = read(&adapter.join("adapter_model.safetensors")).into_iter().collect();
    assert!(complain(&all[1..]).contains("base_model.model.classifier.bias"));
    let renamed: Vec<_> = all
        .iter()
        .map(|(name, t)| (name.replace("q_proj", "x_proj"), t.clone()))
        .collect();
    assert!(complain(&renamed).contains("q_proj.lora_A.weight"));
    let mut other = all.clone();
    other[0].1 = Tensor::zeros(7, candle_core::DType::F32, &Device::Cpu).unwrap();
    let message = complain(&other);
    assert!(message.contains("[7]") && message.contains("[5]"), "{message}");
}

#[test]
fn a_saved_model_computes_what_the_trained_one_did() {
    let Some(case) = Case::open() else { return };
    let vit = case.lora();
    let dir = tempfile::tempdir().unwrap();
    vit.save_full(dir.path()).unwrap();
    let classes = case.classes();
    let (again, report) = Vit::load(dir.path(), &classes, &Training::Head, 0, &Device::Cpu).unwrap();
    assert!(report.new.is_empty() && report.unexpected.is_empty(), "{report}");
    let config = VitConfig::read(dir.path()).unwrap();
    assert_eq!(config.classes, classes);
    let (ours, theirs) = (
        vit.infer(&case.pixels(0..2)).unwrap(),
        again.infer(&case.pixels(0..2)).unwrap(),
    );
    // Merged weights round differently.
    close("merged logits", &theirs, &ours, 1e-4);
}

struct Case {
    dir: std::path::PathBuf,
    base: std::path::PathBuf,
    pixels: Tensor,
    labels: Vec<u32>,
}

struct Decay(f64);

impl Case {
    fn open() -> Option<Case> {
        let (dir, base) = (common::shared("parity/vit_lora")?, common::shared("models/deit-tiny")?);
        let path = dir.join("data.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let labels = file.tensor("labels").unwrap();
        let labels = labels.data().chunks_exact(8).map(|b| b[0] as u32).collect();
        let pixels = read_one(&path, "pixel_values");
        Some(Case {
            dir,
            base,
            pixels,
            labels,
        })
    }

    fn classes(&self) -> Vec<String> {
        (0..5).map(|i| format!("class {i}")).collect()
    }

    fn lora_config(&self) -> LoraConfig {
        LoraConfig::read(&self.dir.join("initial_adapter")).unwrap()
    }

    fn vit(&self, training: &Training) -> Vit {
        let (vit, report) = Vit::load(&self.base, &self.classes(), training, 0, &Device::Cpu).unwrap();
        assert_eq!(report.new, ["classifier.weight", "classifier.bias"]);
        assert_eq!(report.mismatched.len(), 2);
        vit
    }

    /// The model with the reference's first adapter and classifier.
    fn lora(&self) -> Vit {
        let mut vit = self.vit(&Training::Lora(self.lora_config()));
        vit.load_adapter(&self.dir.join("initial_adapter")).unwrap();
        vit
    }

    fn pixels(&self, rows: std::ops::Range<usize>) -> Tensor {
        self.pixels
            .narrow(0, rows.start, rows.len())
            .unwrap()
            .contiguous()
            .unwrap()
    }

    fn tensors(&self, file: &str) -> BTreeMap<String, Tensor> {
        read(&self.dir.join(file))
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.join(file)).unwrap()).unwrap()
    }

    /// Forward and backward over `rows` of a step of `samples` samples; the sum of their losses over `samples`.
    fn accumulate(&self, vit: &mut Vit, rows: std::ops::Range<usize>, samples: usize) -> f64 {
        let logits = vit.forward(&self.pixels(rows.clone()), None).unwrap();
        let loss = cross_entropy(&logits, &self.labels[rows], 0.0, 1.0 / samples as f64).unwrap();
        vit.backward(&loss.dlogits_bc).unwrap();
        loss.sum_loss / samples as f64
    }

    /// Trains along a trace over the first `rows` rows in sequence, epoch after epoch.
    fn follow(&self, vit: &mut Vit, trace: &str, decay: Decay, rows: usize) {
        let json = self.json(trace);
        let number = |name: &str| json[name].as_u64().unwrap() as usize;
        let (bs, ga) = (number("bs"), number("ga"));
        let config = AdamWConfig {
            weight_decay: decay.0,
            ..AdamWConfig::default()
        };
        let mut optimizer = AdamW::new(vit.parameters(), config).unwrap();
        let mut start = 0;
        for log in json["log"].as_array().unwrap() {
            let end = (start + bs * ga).min(rows);
            let loss: f64 = (start..end)
                .step_by(bs)
                .map(|at| self.accumulate(vit, at..(at + bs).min(end), end - start))
                .sum();
            let norm = vit
                .parameters()
                .clip_gradients(json["clip"].as_f64().unwrap_or(1.0))
                .unwrap();
            optimizer
                .step(vit.parameters(), log["learning_rate"].as_f64().unwrap())
                .unwrap();
            vit.parameters().zero_gradients().unwrap();
            for (what, ours) in [("loss", loss), ("grad_norm", norm)] {
                let expected = log[what].as_f64().unwrap();
                let difference = (ours / expected - 1.0).abs();
                eprintln!(
                    "{trace} step {} {what}: {ours:.7} for {expected:.7}, {difference:.1e}",
                    log["step"]
                );
                assert!(
                    difference < 2e-4,
                    "{trace} step {}: {what} {ours} for {expected}",
                    log["step"]
                );
            }
            start = if end == rows { 0 } else { end };
        }
    }
}

fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.names()
        .into_iter()
        .map(|name| (name.to_owned(), read_one(path, name)))
        .collect()
}

fn read_one(path: &Path, name: &str) -> Tensor {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let file = dtrain::model::weights::Checkpoint::open(path.parent().unwrap(), stem, str::to_owned).unwrap();
    let shape = file.shape(name).unwrap().to_vec();
    let mut values = vec![0f32; shape.iter().product()];
    file.read_into(name, &mut values).unwrap();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn largest(t: &Tensor) -> f32 {
    t.abs()
        .unwrap()
        .flatten_all()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar::<f32>()
        .unwrap()
}

fn close(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f32) {
    let difference = largest(&(ours - expected).unwrap());
    eprintln!("{what}: {difference:.1e}");
    assert!(difference < tolerance, "{what}: {difference}");
}

/// Within `tolerance` of the tensor's norm.
fn relatively_close(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt() as f64;
    let difference = norm(&(ours - expected).unwrap());
    // Not strictly: the gradient of A is exactly 0 as long as B is.
    assert!(
        difference <= tolerance * norm(expected),
        "{what}: {difference} of {}",
        norm(expected)
    );
}
