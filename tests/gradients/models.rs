//! Whole models: gradients of every way of training, their sums, and what may not change them.

use candle_core::{DType, Device, Tensor};
use dtrain::model::{Activations, DropoutNames, LoraConfig, ResNet, ResNetConfig, Training, Vit, VitConfig, names};
use dtrain::nn::Projection;
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::dropout::{Dropout, dropout};
use dtrain::optim::{AdamW, AdamWConfig, Decay, Parameters};
use dtrain::recipe::FrozenPart;

use super::reference::Reference;
use super::{random, set};

#[test]
fn every_gradient_of_full_fine_tuning_is_autograds() {
    let mut vit = lively(&Training::Full);
    let reference = Reference::of(&vit, Vec::new());
    let (pixels, upstream) = (random(&[3, 3, 12, 12], 1, 1.0), random(&[3, 4], 2, 1.0));
    reference.check(&mut vit, &pixels, &upstream, None);
}

#[test]
fn every_gradient_of_lora_with_dropout_is_autograds() {
    let dir = tempfile::tempdir().unwrap();
    lively(&Training::Full).save_full(dir.path()).unwrap();
    for targets in [&["query", "value"][..], &["query", "key", "value"], &["key"]] {
        let targets: Vec<String> = targets.iter().map(|name| name.to_string()).collect();
        let config = LoraConfig::new(2, 3.0, 0.25, &targets).unwrap();
        let classes = small_config().classes;
        let training = Training::Lora(config);
        let (mut vit, report) = Vit::load(dir.path(), &classes, &training, 3, &Device::Cpu).unwrap();
        assert!(report.new.is_empty(), "{report}");
        set(&vit.parameters().values, &random(&[vit.parameters().count()], 9, 0.3));
        let samples = [5, 900_000_000_000, 6];
        let names = DropoutNames {
            seed: 11,
            epoch: 3,
            samples: &samples,
        };
        let masks = masks(&vit, &names);
        let reference = Reference::of(&vit, masks);
        let (pixels, upstream) = (random(&[3, 3, 12, 12], 1, 1.0), random(&[3, 4], 2, 1.0));
        reference.check(&mut vit, &pixels, &upstream, Some(&names));
    }
}

#[test]
fn the_heads_gradients_are_autograds_and_the_body_has_none() {
    let mut vit = lively(&Training::Head);
    assert_eq!(vit.parameters().entries.len(), 2);
    let reference = Reference::of(&vit, Vec::new());
    let (pixels, upstream) = (random(&[2, 3, 12, 12], 1, 1.0), random(&[2, 4], 2, 1.0));
    reference.check(&mut vit, &pixels, &upstream, None);
}

#[test]
fn gradients_add_up_and_an_empty_batch_adds_nothing() {
    let mut vit = lively(&Training::Full);
    let (pixels, upstream) = (random(&[2, 3, 12, 12], 1, 1.0), random(&[2, 4], 2, 1.0));
    let mut run = |pixels: &Tensor, upstream: &Tensor| {
        let logits = vit.forward(pixels, None).unwrap();
        assert_eq!(logits.dims(), upstream.dims());
        vit.backward(upstream).unwrap();
        vit.parameters().gradients.to_vec1::<f32>().unwrap()
    };
    let once = run(&pixels, &upstream);
    let nothing = run(&pixels.narrow(0, 0, 0).unwrap(), &upstream.narrow(0, 0, 0).unwrap());
    assert_eq!(once, nothing);
    let twice = run(&pixels, &upstream);
    for (once, twice) in once.iter().zip(&twice) {
        assert!(
            (2.0 * once - twice).abs() <= 1e-5 * (1.0 + once.abs()),
            "{once} {twice}"
        );
    }
}

#[test]
fn what_is_not_frozen_has_the_gradients_of_the_whole_model() {
    let run = |training: &Training, activations: Activations| {
        let mut vit = lively(training);
        vit.set_activations(activations);
        let logits = vit.forward(&random(&[2, 3, 12, 12], 1, 1.0), None).unwrap();
        vit.backward(&random(&[2, 4], 2, 1.0)).unwrap();
        let parameters = vit.parameters();
        let gradients = (0..parameters.entries.len()).map(|i| {
            let gradient = parameters.gradient(i).unwrap().flatten_all().unwrap();
            (parameters.entries[i].name.clone(), gradient.to_vec1::<f32>().unwrap())
        });
        let gradients: std::collections::BTreeMap<_, _> = gradients.collect();
        (logits.to_vec2::<f32>().unwrap(), gradients, vit.lowest())
    };
    let (expected, whole, _) = run(&Training::Full, Activations::Kept);
    // A block has 16 tensors, the embeddings 4, the norm and the classifier 2 each.
    for (frozen, trained, lowest) in [
        ("0", 52, 0),
        ("2", 20, 2),
        ("3", 4, 3),
        ("layers.1", 40, 0),
        ("layers", 8, 0),
        ("embeddings layers.0-1 layernorm", 18, 2),
        ("layernorm", 54, 0),
        ("3 layernorm", 2, 3),
    ] {
        let parts = frozen.split(' ').map(|part| FrozenPart::read(part).unwrap());
        let training = Training::AllBut(parts.collect());
        for activations in [Activations::Kept, Activations::Recomputed] {
            let (logits, gradients, lowest_trained) = run(&training, activations);
            assert!(logits == expected, "{frozen}");
            assert_eq!((gradients.len(), lowest_trained), (trained, lowest), "{frozen}");
            for (name, gradient) in &gradients {
                assert!(*gradient == whole[name], "{frozen}: {name}");
            }
        }
    }
    let training = Training::AllBut(vec![FrozenPart::read("layers.3").unwrap()]);
    let error = Vit::random(small_config(), &training, 1, &Device::Cpu)
        .err()
        .expect("three layers")
        .to_string();
    assert!(error.contains("layers.0-2"), "{error}");
}

#[test]
fn activations_that_are_computed_again_change_no_bit() {
    for training in [
        Training::Full,
        Training::Lora(LoraConfig::new(2, 3.0, 0.25, &["query".into()]).unwrap()),
    ] {
        let gradients = |activations: Activations| {
            let mut vit = lively(&training);
            vit.set_activations(activations);
            let samples = [5, 7];
            let names = DropoutNames {
                seed: 11,
                epoch: 3,
                samples: &samples,
            };
            vit.forward(&random(&[2, 3, 12, 12], 1, 1.0), Some(&names)).unwrap();
            vit.backward(&random(&[2, 4], 2, 1.0)).unwrap();
            vit.parameters().gradients.to_vec1::<f32>().unwrap()
        };
        let kept = gradients(Activations::Kept);
        assert!(kept.iter().any(|x| *x != 0.0));
        assert!(kept == gradients(Activations::Recomputed));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut vit = lively(&Training::Full);
            let mut optimizer = AdamW::new(vit.parameters(), AdamWConfig::default()).unwrap();
            for _ in 0..2 {
                let logits = vit.forward(&random(&[5, 3, 12, 12], 1, 1.0), None).unwrap();
                let loss = cross_entropy(&logits, &[0, 1, 2, 3, 0], 0.1, 0.2).unwrap();
                vit.backward(&loss.dlogits_bc).unwrap();
                vit.parameters().clip_gradients(1.0).unwrap();
                optimizer.step(vit.parameters(), 1e-2).unwrap();
            }
            let values = vit.parameters().values.to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

/// Trainer.get_decay_parameter_names of transformers 5.23, for a ViT and a ResNet of one layer.
#[test]
fn weight_decay_moves_what_trainer_moves() {
    let json = serde_json::json!({
        "model_type": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40,
        "id2label": {"0": "a", "1": "b"},
    });
    let config = VitConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
    let vit = Vit::random(config, &Training::Full, 1, &Device::Cpu).unwrap();
    let decayed = |parameters: &Parameters| -> Vec<String> {
        let decayed = parameters.entries.iter().filter(|entry| entry.decay == Decay::Decayed);
        decayed.map(|entry| names::in_memory(&entry.name)).collect()
    };
    let expected = [
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        "vit.embeddings.patch_embeddings.projection.weight",
        "vit.layers.0.attention.q_proj.weight",
        "vit.layers.0.attention.k_proj.weight",
        "vit.layers.0.attention.v_proj.weight",
        "vit.layers.0.attention.o_proj.weight",
        "vit.layers.0.mlp.fc1.weight",
        "vit.layers.0.mlp.fc2.weight",
        "classifier.weight",
    ];
    assert_eq!(decayed(vit.parameters()), expected);
    let json = serde_json::json!({
        "model_type": "resnet", "depths": [1], "hidden_sizes": [16], "embedding_size": 8, "id2label": {"0": "a", "1": "b"},
    });
    let config = ResNetConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
    let resnet = ResNet::random(config, &Training::Full, 1, &Device::Cpu).unwrap();
    let parameters = resnet.parameters();
    let spared: Vec<&str> = parameters
        .entries
        .iter()
        .filter(|entry| entry.decay == Decay::Spared)
        .map(|entry| entry.name.as_str())
        .collect();
    let layer = "resnet.encoder.stages.0.layers.0";
    let expected = [
        "resnet.embedder.embedder.normalization.bias".to_owned(),
        format!("{layer}.layer.0.normalization.bias"),
        format!("{layer}.layer.1.normalization.bias"),
        format!("{layer}.layer.2.normalization.bias"),
        format!("{layer}.shortcut.normalization.bias"),
        "classifier.1.bias".to_owned(),
    ];
    assert_eq!(
        (spared, parameters.entries.len()),
        (expected.iter().map(String::as_str).collect(), 17)
    );
}

#[test]
fn vit_base_has_pefts_counts() {
    let json = serde_json::json!({"model_type": "vit", "qkv_bias": true});
    let mut config = VitConfig::from_json(json, std::path::Path::new("config.json")).unwrap();
    config.classes = (0..101).map(|i| i.to_string()).collect();
    let targets = ["query".to_owned(), "value".to_owned()];
    let lora = Training::Lora(LoraConfig::new(16, 16.0, 0.1, &targets).unwrap());
    assert_eq!(dtrain::model::counts(&config, &lora), (667_493, 86_543_818));
    assert_eq!(
        dtrain::model::counts(&config, &Training::Full),
        (85_876_325, 85_876_325)
    );
    assert_eq!(dtrain::model::counts(&config, &Training::Head), (77_669, 85_876_325));
}

/// Three layers, 10 tokens of width 24, 3 heads, 4 classes.
fn small_config() -> VitConfig {
    let json = serde_json::json!({
        "model_type": "vit", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 40, "image_size": 12, "patch_size": 4,
        "id2label": {"0": "a", "1": "b", "2": "c", "3": "d"},
    });
    VitConfig::from_json(json, std::path::Path::new("config.json")).unwrap()
}

/// A model whose weights are large enough that attention attends and GELU bends.
fn lively(training: &Training) -> Vit {
    let vit = Vit::random(small_config(), training, 1, &Device::Cpu).unwrap();
    for (i, (name, t)) in vit.tensors().iter().enumerate() {
        let noise = random(t.dims(), 100 + i as u32, 0.4);
        let centre = if name.contains("layernorm") && name.ends_with("weight") {
            1.0
        } else {
            0.0
        };
        set(t, &(noise + centre).unwrap());
    }
    vit
}

fn masks(vit: &Vit, names: &DropoutNames) -> Vec<((usize, Projection), Tensor)> {
    let Training::Lora(lora) = vit.training() else {
        return Vec::new();
    };
    let ones = Tensor::ones((names.samples.len(), 10, 24), DType::F32, &Device::Cpu).unwrap();
    let layers = (0..vit.config().layers).flat_map(|layer| lora.targets.iter().map(move |target| (layer, *target)));
    layers
        .map(|(layer, target)| {
            let module = Dropout {
                probability: lora.dropout,
                module: (layer * 3 + target as usize) as u32,
            };
            let mask = dropout(&ones, module, names).unwrap();
            ((layer, target), mask.to_dtype(DType::F64).unwrap())
        })
        .collect()
}
