//! Whole ResNets of every kind against what transformers computed (tests/fixtures/resnet_variants.py), and what may not
//! change them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use dtrain::model::weights::Checkpoint;
use dtrain::model::{ResNet, ResNetConfig, Training};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::optim::{AdamW, AdamWConfig};
use serde_json::{Value, json};

use super::{close, random, set};

fn variants() -> [(&'static str, Value); 3] {
    [
        (
            "basic",
            json!({"layer_type": "basic", "hidden_sizes": [6, 10], "depths": [2, 1]}),
        ),
        (
            "basic_first",
            json!({"layer_type": "basic", "hidden_sizes": [6, 6], "depths": [1, 2], "downsample_in_first_stage": true}),
        ),
        (
            "bottleneck_first",
            json!({"hidden_sizes": [8, 12], "depths": [1, 2], "downsample_in_bottleneck": true}),
        ),
    ]
}

#[test]
fn resnets_of_every_kind_are_transformers() {
    for (name, config) in variants() {
        let stored = stored(name);
        let mut resnet = resnet(&config, &Training::Full);
        let statistics = resnet.statistics().named().unwrap();
        for (tensor, to) in resnet.tensors().iter().chain(&statistics) {
            if !tensor.ends_with("num_batches_tracked") {
                set(to, &stored[&format!("first.{tensor}")]);
            }
        }
        let pixels = &stored["pixels"];
        // f32 on both sides, a dozen convolutions and normalisations apart.
        close(
            "inferred logits",
            &resnet.infer(pixels).unwrap(),
            &stored["inferred"],
            1e-5,
        );
        close("logits", &resnet.forward(pixels).unwrap(), &stored["logits"], 2e-5);
        resnet.backward(&stored["upstream"]).unwrap();
        for (at, entry) in resnet.parameters().entries.iter().enumerate() {
            let expected = &stored[&format!("gradient.{}", entry.name)];
            let gradient = resnet.parameters().gradient(at).unwrap();
            close(&format!("{name} {}", entry.name), &gradient, expected, 1e-4);
        }
        for (tensor, ours) in resnet.statistics().named().unwrap() {
            if tensor.ends_with("num_batches_tracked") {
                assert_eq!(ours.to_scalar::<i64>().unwrap(), 1);
                continue;
            }
            close(&tensor, &ours, &stored[&format!("after.{tensor}")], 1e-5);
        }
    }
}

#[test]
fn gradients_of_a_resnet_add_up_and_an_empty_batch_adds_nothing() {
    let mut resnet = resnet(&variants()[0].1, &Training::Full);
    let (pixels, upstream) = (random(&[2, 3, 20, 20], 1, 1.0), random(&[2, 3], 2, 1.0));
    let mut run = |pixels: &Tensor, upstream: &Tensor| {
        let logits = resnet.forward(pixels).unwrap();
        assert_eq!(logits.dims(), upstream.dims());
        resnet.backward(upstream).unwrap();
        resnet.parameters().gradients.to_vec1::<f32>().unwrap()
    };
    let once = run(&pixels, &upstream);
    let nothing = run(&pixels.narrow(0, 0, 0).unwrap(), &upstream.narrow(0, 0, 0).unwrap());
    assert_eq!(once, nothing);
    let twice = run(&pixels, &upstream);
    for (once, twice) in once.iter().zip(&twice) {
        assert!(
            (2.0 * once - twice).abs() <= 1e-4 * (1.0 + once.abs()),
            "{once} {twice}"
        );
    }
}

#[test]
fn with_the_classifier_alone_the_body_infers_and_stays() {
    let mut resnet = resnet(&variants()[2].1, &Training::Head);
    assert_eq!(resnet.parameters().entries.len(), 2);
    let statistics = resnet.statistics().values.to_vec1::<f32>().unwrap();
    let pixels = random(&[2, 3, 20, 20], 1, 1.0);
    let logits = resnet.forward(&pixels).unwrap();
    close("logits", &logits, &resnet.infer(&pixels).unwrap(), 1e-7);
    resnet.backward(&random(&[2, 3], 2, 1.0)).unwrap();
    assert!(
        resnet
            .parameters()
            .gradients
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .all(|g| *g != 0.0)
    );
    assert_eq!(resnet.statistics().values.to_vec1::<f32>().unwrap(), statistics);
}

#[test]
fn threads_do_not_change_a_bit_of_a_resnet() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut resnet = resnet(
                &json!({"embedding_size": 20, "hidden_sizes": [36, 140], "depths": [1, 2]}),
                &Training::Full,
            );
            let mut optimizer = AdamW::new(resnet.parameters(), AdamWConfig::default()).unwrap();
            for _ in 0..2 {
                let logits = resnet.forward(&random(&[5, 3, 64, 64], 1, 1.0)).unwrap();
                let loss = cross_entropy(&logits, &[0, 1, 2, 2, 0], 0.1, 0.2).unwrap();
                resnet.backward(&loss.dlogits_bc).unwrap();
                resnet.parameters().clip_gradients(1.0).unwrap();
                optimizer.step(resnet.parameters(), 1e-2).unwrap();
            }
            let mut all = resnet.parameters().values.to_vec1::<f32>().unwrap();
            all.extend(resnet.statistics().values.to_vec1::<f32>().unwrap());
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

#[test]
fn one_value_for_each_channel_is_refused_in_training_and_fine_in_inference() {
    let mut resnet = resnet(&variants()[0].1, &Training::Full);
    let pixel = random(&[1, 3, 2, 2], 1, 1.0);
    let message = resnet.forward(&pixel).unwrap_err().to_string();
    assert!(message.contains("--per-device-train-batch-size"), "{message}");
    assert_eq!(resnet.infer(&pixel).unwrap().dims(), [1, 3]);
}

#[test]
fn resnets_have_transformers_counts() {
    for (config, count) in [
        (json!({}), 25_557_032),
        (
            json!({"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}),
            11_689_512,
        ),
    ] {
        let classes: serde_json::Map<String, Value> = (0..1000).map(|i| (i.to_string(), json!("name"))).collect();
        let mut config = config;
        config["model_type"] = json!("resnet");
        config["id2label"] = Value::Object(classes);
        let config = ResNetConfig::from_json(config, Path::new("config.json")).unwrap();
        let resnet = ResNet::random(config, &Training::Head, 1, &Device::Cpu).unwrap();
        assert_eq!(resnet.total_count(), count);
    }
}

fn resnet(config: &Value, training: &Training) -> ResNet {
    let mut json = json!({
        "model_type": "resnet", "embedding_size": 5, "id2label": {"0": "a", "1": "b", "2": "c"},
    });
    for (key, value) in config.as_object().unwrap() {
        json[key] = value.clone();
    }
    let config = ResNetConfig::from_json(json, Path::new("config.json")).unwrap();
    ResNet::random(config, training, 1, &Device::Cpu).unwrap()
}

/// The fixture's tensors of one model, without its name in front; whole numbers are left out.
fn stored(model: &str) -> BTreeMap<String, Tensor> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let file = Checkpoint::open(&folder, "resnet_variants", str::to_owned).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let of_model = names
        .iter()
        .filter_map(|name| Some((name, name.strip_prefix(model)?.strip_prefix('.')?)));
    of_model
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, short)| {
            let shape = file.shape(name).unwrap().to_vec();
            let mut values = vec![0f32; shape.iter().product()];
            file.read_into(name, &mut values).unwrap();
            (short.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}
