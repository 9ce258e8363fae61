//! The kernels' own sources, built for the host, held against the CPU ops: one table of cases, a module a kernel file.
//!
//! A machine with a GPU runs the same table there; see `kernels/` for what each kernel promises.

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
#[path = "kernels/values.rs"]
mod values;

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
