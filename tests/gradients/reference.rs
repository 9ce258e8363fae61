//! The ViT written down a second time, plainly, for candle's autograd.

use std::collections::BTreeMap;

use candle_core::{D, DType, Tensor, Var};
use dtrain::model::{DropoutNames, Training, Vit, VitConfig, names};
use dtrain::nn::Projection;
use dtrain::recipe::AdapterFormat;

use super::close;

/// The ViT in f64 on candle's differentiable operations, with a variable for each trained tensor.
pub struct Reference {
    config: VitConfig,
    weights: BTreeMap<String, Tensor>,
    trained: Vec<(String, Var)>,
    lora_scale: f64,
    /// Of each layer and target: what dropout multiplies the input of A with.
    masks: Vec<((usize, Projection), Tensor)>,
}

impl Reference {
    pub fn of(vit: &Vit, masks: Vec<((usize, Projection), Tensor)>) -> Self {
        let double = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let mut weights: BTreeMap<String, Tensor> = vit
            .tensors()
            .iter()
            .map(|(name, t)| (name.clone(), double(t)))
            .collect();
        let mut trained = Vec::new();
        for (i, entry) in vit.parameters().entries.iter().enumerate() {
            let var = Var::from_tensor(&double(&vit.parameters().value(i).unwrap())).unwrap();
            let name = entry
                .name
                .strip_prefix("base_model.model.")
                .unwrap_or(&entry.name)
                .to_owned();
            weights.insert(name, var.as_tensor().clone());
            trained.push((entry.name.clone(), var));
        }
        let lora_scale = match vit.training() {
            Training::Lora(lora) => lora.scale(),
            _ => 0.0,
        };
        Reference {
            config: vit.config().clone(),
            weights,
            trained,
            lora_scale,
            masks,
        }
    }

    /// Same logits, same gradient of every trained tensor, to 5e-5 of its largest value: f32 against f64
    /// through three layers of large weights.
    pub fn check(&self, vit: &mut Vit, pixels: &Tensor, upstream: &Tensor, names: Option<&DropoutNames>) {
        let logits = vit.forward(pixels, names).unwrap();
        let expected = self.logits(&pixels.to_dtype(DType::F64).unwrap());
        close("logits", &logits, &expected, 1e-5);
        vit.parameters().zero_gradients().unwrap();
        vit.backward(upstream).unwrap();
        let loss = (expected * upstream.to_dtype(DType::F64).unwrap())
            .unwrap()
            .sum_all()
            .unwrap();
        let gradients = loss.backward().unwrap();
        for (i, (name, var)) in self.trained.iter().enumerate() {
            let expected = gradients
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("no gradient of {name}"));
            close(name, &vit.parameters().gradient(i).unwrap(), expected, 5e-5);
        }
        if names.is_none() {
            close("inferred logits", &vit.infer(pixels).unwrap(), &logits, 1e-6);
        }
    }

    fn logits(&self, pixels: &Tensor) -> Tensor {
        let config = &self.config;
        let (b, d) = (pixels.dims()[0], config.hidden_size);
        let stem = "vit.embeddings.patch_embeddings.projection";
        let patches = pixels
            .conv2d(self.get(stem, "weight"), 0, config.patch_size, 1, 1)
            .unwrap();
        let patches = patches.flatten_from(2).unwrap().transpose(1, 2).unwrap();
        let patches = patches.broadcast_add(self.get(stem, "bias")).unwrap();
        let cls = self.get("vit.embeddings", "cls_token").broadcast_as((b, 1, d)).unwrap();
        let x = Tensor::cat(&[&cls, &patches], 1).unwrap();
        let mut x = x
            .broadcast_add(self.get("vit.embeddings", "position_embeddings"))
            .unwrap();
        for layer in 0..config.layers {
            x = self.layer(layer, &x);
        }
        let x = self.norm("vit.layernorm", &x.narrow(1, 0, 1).unwrap().squeeze(1).unwrap());
        self.linear("classifier", &x)
    }

    fn layer(&self, layer: usize, x: &Tensor) -> Tensor {
        let at = |module: &str| format!("vit.encoder.layer.{layer}.{module}");
        let (b, s, d) = x.dims3().unwrap();
        let (h, e) = (self.config.heads, d / self.config.heads);
        let normed = self.norm(&at("layernorm_before"), x);
        let heads = |target: Projection| {
            let t = self.projected(layer, target, &normed);
            t.reshape((b, s, h, e))
                .unwrap()
                .transpose(1, 2)
                .unwrap()
                .contiguous()
                .unwrap()
        };
        let [q, k, v] = Projection::ALL.map(heads);
        let scores = (q.matmul(&k.t().unwrap()).unwrap() / (e as f64).sqrt()).unwrap();
        let o = candle_nn::ops::softmax(&scores, D::Minus1).unwrap().matmul(&v).unwrap();
        let o = o.transpose(1, 2).unwrap().reshape((b, s, d)).unwrap();
        let x = (x + self.linear(&at("attention.output.dense"), &o)).unwrap();
        let z = self.linear(&at("intermediate.dense"), &self.norm(&at("layernorm_after"), &x));
        (&x + self.linear(&at("output.dense"), &z.gelu_erf().unwrap())).unwrap()
    }

    fn projected(&self, layer: usize, target: Projection, x: &Tensor) -> Tensor {
        let file = names::projection(layer, target, "");
        let y = self.linear(file.trim_end_matches('.'), x);
        let Some((_, mask)) = self.masks.iter().find(|(at, _)| *at == (layer, target)) else {
            return y;
        };
        let matrix = |matrix| {
            let name = names::adapter_matrix(layer, target, matrix, AdapterFormat::V5);
            self.weights[name.strip_prefix("base_model.model.").unwrap()]
                .t()
                .unwrap()
        };
        let dropped = (x * mask).unwrap();
        let u = dropped.broadcast_matmul(&matrix(names::Matrix::A)).unwrap();
        let low_rank = u.broadcast_matmul(&matrix(names::Matrix::B)).unwrap();
        (y + (low_rank * self.lora_scale).unwrap()).unwrap()
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        let y = x.broadcast_matmul(&self.get(name, "weight").t().unwrap()).unwrap();
        y.broadcast_add(self.get(name, "bias")).unwrap()
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let deviation = (variance + self.config.layer_norm_eps).unwrap().sqrt().unwrap();
        let normed = centred.broadcast_div(&deviation).unwrap();
        let scaled = normed.broadcast_mul(self.get(name, "weight")).unwrap();
        scaled.broadcast_add(self.get(name, "bias")).unwrap()
    }

    fn get(&self, module: &str, leaf: &str) -> &Tensor {
        &self.weights[&format!("{module}.{leaf}")]
    }
}
