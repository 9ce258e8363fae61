//! Single layers against what PyTorch computed.

use candle_core::{DType, Device, Tensor};
use dtrain::nn::{Embeddings, Linear, Weight};
use dtrain::ops::attention::{Attention, Wanted, attention, attention_backward};
use dtrain::ops::cross_entropy::cross_entropy;
use dtrain::ops::matmul::Products;
use dtrain::ops::{gelu, layer_norm};
use dtrain::optim::parameters::Layout;
use dtrain::optim::{AdamW, AdamWConfig, Decay, Parameters};

use super::stored::Stored;
use super::{close, set};

#[test]
fn layer_norm_is_pytorchs() {
    let Some(case) = Stored::open("layer_norm") else { return };
    let (x, w, b, gy) = (case.get("x"), case.get("w"), case.get("b"), case.get("gy"));
    let (y, moments) = layer_norm::layer_norm(&x, &w, &b, 1e-12).unwrap();
    case.check("y", &y);
    case.check("y", &layer_norm::layer_norm_again(&x, &moments, &w, &b).unwrap());
    let (gx, gw, gb) = (
        x.zeros_like().unwrap(),
        w.zeros_like().unwrap(),
        b.zeros_like().unwrap(),
    );
    layer_norm::layer_norm_backward(&gx, &gy, &x, &moments, &w).unwrap();
    layer_norm::layer_norm_backward_weights(&gw, &gb, &gy, &x, &moments).unwrap();
    case.check("gx", &gx);
    case.check("gw", &gw);
    case.check("gb", &gb);
}

#[test]
fn gelu_is_pytorchs() {
    let Some(case) = Stored::open("gelu") else { return };
    case.check("y", &gelu::gelu(&case.get("x")).unwrap());
    let gradient = case.get("gy");
    gelu::gelu_backward(&gradient, &case.get("x")).unwrap();
    case.check("gx", &gradient);
}

#[test]
fn attention_is_pytorchs() {
    let Some(case) = Stored::open("attention") else { return };
    // [b,h,s,e] there, [b,s,h·e] here.
    let packed = |name: &str| {
        let t = case.get(name).transpose(1, 2).unwrap().contiguous().unwrap();
        t.flatten_from(2).unwrap()
    };
    let check = |name: &str, t: &Tensor| {
        let (b, s, _) = t.dims3().unwrap();
        let t = t.contiguous().unwrap().reshape((b, s, 3, 8)).unwrap();
        case.check(name, &t.transpose(1, 2).unwrap().contiguous().unwrap());
    };
    // Once as three tensors, once as views of one.
    let (q, k, v) = (packed("q"), packed("k"), packed("v"));
    let together = Tensor::cat(&[&q, &k, &v], 2).unwrap();
    let part = |i: usize| together.narrow(2, 24 * i, 24).unwrap();
    for (q, k, v) in [(q, k, v), (part(0), part(1), part(2))] {
        let operands = Attention {
            q_bqd: &q,
            k_bsd: &k,
            v_bsd: &v,
            heads: 3,
            products: Products::F32,
        };
        let output = attention(&operands).unwrap();
        check("y", &output.o_bqd);
        for wanted in [Wanted::QueryKeyValue, Wanted::QueryValue] {
            let gradient = attention_backward(&operands, &output, &packed("gy"), wanted).unwrap();
            check("gq", &gradient.dq_bqd().unwrap());
            check("gv", &gradient.dv_bsd().unwrap());
            match (wanted, gradient.dk_bsd().unwrap()) {
                (Wanted::QueryKeyValue, Some(dk)) => check("gk", &dk),
                (_, dk) => assert!(dk.is_none()),
            }
        }
    }
}

#[test]
fn patch_embedding_is_pytorchs() {
    let Some(case) = Stored::open("patch_embedding") else {
        return;
    };
    let trained = |value: Tensor| Weight {
        gradient: Some(value.zeros_like().unwrap()),
        value,
    };
    let embeddings = Embeddings {
        projection: Linear {
            weight: trained(case.get("w").flatten_from(1).unwrap()),
            bias: Some(trained(case.get("b"))),
            products: Products::F32,
        },
        cls: trained(Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap()),
        position: trained(Tensor::zeros((5, 8), DType::F32, &Device::Cpu).unwrap()),
        patch_size: 16,
    };
    let (tokens, patches) = embeddings.forward(&case.get("x")).unwrap();
    // [b,8,2,2] there; here tokens after CLS.
    let y = tokens
        .narrow(1, 1, 4)
        .unwrap()
        .transpose(1, 2)
        .unwrap()
        .contiguous()
        .unwrap();
    case.check("y", &y.reshape((2, 8, 2, 2)).unwrap());
    let gy = case.get("gy").flatten_from(2).unwrap().transpose(1, 2).unwrap();
    let cls = Tensor::zeros((2, 1, 8), DType::F32, &Device::Cpu).unwrap();
    let dx = Tensor::cat(&[&cls, &gy], 1).unwrap().contiguous().unwrap();
    embeddings.backward(&dx, &patches).unwrap();
    let gradient = |weight: &Weight| weight.gradient.clone().unwrap();
    case.check(
        "gw",
        &gradient(&embeddings.projection.weight).reshape((8, 3, 16, 16)).unwrap(),
    );
    case.check("gb", &gradient(embeddings.projection.bias.as_ref().unwrap()));
    // Positions sum the same gradients over images only.
    let positions = gradient(&embeddings.position).narrow(0, 1, 4).unwrap();
    close("positions", &positions, &gy.sum(0).unwrap(), 1e-5);
}

#[test]
fn cross_entropy_is_pytorchs() {
    for (name, smoothing) in [("cross_entropy", 0.0), ("cross_entropy_smoothing0.1", 0.1)] {
        let Some(case) = Stored::open(name) else { return };
        let loss = cross_entropy(&case.get("logits"), &[0, 3, 6, 2, 2], smoothing, 1.0 / 5.0).unwrap();
        case.check("glogits", &loss.dlogits_bc);
        case.check(
            "loss",
            &Tensor::new(&[(loss.sum_loss / 5.0) as f32], &Device::Cpu).unwrap(),
        );
        assert_eq!(loss.sum_loss, loss.losses.iter().sum::<f64>());
    }
}

#[test]
fn adamw_is_pytorchs() {
    let Some(case) = Stored::open("adamw") else { return };
    let mut layout = Layout::default();
    layout.push("p", &[6], Decay::Decayed);
    let parameters = Parameters::new(layout, &Device::Cpu).unwrap();
    set(&parameters.values, &case.get("p0"));
    let config = AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(&parameters, config).unwrap();
    for step in 0..3 {
        set(&parameters.gradients, &case.get(&format!("g{step}")));
        optimizer.step(&parameters, 0.01).unwrap();
        case.check(&format!("p{}", step + 1), &parameters.values);
    }
}
