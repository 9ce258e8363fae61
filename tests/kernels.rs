//! The kernels' own sources, built for the host, held against the CPU ops: one table of cases, a module a kernel file.
//!
//! A machine with a GPU runs the same table there; see `kernels/` for what each kernel promises.

#[path = "kernels/attention.rs"]
mod attention;
#[path = "kernels/average.rs"]
mod average;
#[path = "kernels/batch_norm.rs"]
mod batch_norm;
#[path = "kernels/case.rs"]
mod case;
#[path = "kernels/gelu.rs"]
mod gelu;
#[path = "kernels/host.rs"]
mod host;
#[path = "kernels/layer_norm.rs"]
mod layer_norm;
#[path = "kernels/runtime.rs"]
mod runtime;
#[path = "kernels/adamw.rs"]
mod adamw;
#[path = "kernels/convolution_tensor.rs"]
mod convolution_tensor;
#[path = "kernels/column_sums.rs"]
mod column_sums;
#[path = "kernels/cross_entropy.rs"]
mod cross_entropy;
#[path = "kernels/dropout.rs"]
mod dropout;
#[path = "kernels/elementwise.rs"]
mod elementwise;
#[path = "kernels/erase.rs"]
mod erase;
#[path = "kernels/mixing.rs"]
mod mixing;
#[path = "kernels/low_rank.rs"]
mod low_rank;
#[path = "kernels/pool.rs"]
mod pool;
#[path = "kernels/preprocess.rs"]
mod preprocess;
#[path = "kernels/soft_cross_entropy.rs"]
mod soft_cross_entropy;
#[path = "kernels/tokens.rs"]
mod tokens;
#[path = "kernels/values.rs"]
mod values;
#[path = "kernels/windows.rs"]
mod windows;

use case::Case;
use host::Host;

fn check(cases: Vec<Case>) {
    assert!(!cases.is_empty());
    cases.iter().for_each(|case| Host::kernels().check(case));
}

#[test]
fn layer_norm_is_the_cpus() {
    check(layer_norm::cases());
}

#[test]
fn gelu_is_the_cpus() {
    check(gelu::cases());
}

#[test]
fn adamw_is_the_cpus() {
    check(adamw::cases());
}

#[test]
fn averages_are_the_cpus() {
    check(average::cases());
}

#[test]
fn column_sums_are_the_cpus() {
    check(column_sums::cases());
}

#[test]
fn cross_entropy_is_the_cpus() {
    check(cross_entropy::cases());
}

#[test]
fn soft_cross_entropy_is_the_cpus() {
    check(soft_cross_entropy::cases());
}

#[test]
fn dropout_is_the_cpus() {
    check(dropout::cases());
}

#[test]
fn elementwise_is_the_cpus() {
    check(elementwise::cases());
}

#[test]
fn erasing_is_the_cpus() {
    check(erase::cases());
}

#[test]
fn mixing_is_the_cpus() {
    check(mixing::cases());
}

#[test]
fn tokens_are_the_cpus() {
    check(tokens::cases());
}

#[test]
fn attention_is_the_cpus() {
    check(attention::cases());
}

#[test]
fn attention_on_tensor_cores_is_the_cpus() {
    check(attention::tensor_cases());
}

#[test]
fn low_rank_adapters_are_the_cpus() {
    check(low_rank::cases());
}

#[test]
fn batch_norm_is_the_cpus() {
    check(batch_norm::cases());
}

#[test]
fn convolutions_on_tensor_cores_are_the_cpus() {
    check(convolution_tensor::cases());
}

#[test]
fn pooling_is_the_cpus() {
    check(pool::cases());
}

#[test]
fn windows_are_what_convolutions_see() {
    check(windows::cases());
}

#[test]
fn preprocessing_is_the_cpus() {
    check(preprocess::cases());
}
