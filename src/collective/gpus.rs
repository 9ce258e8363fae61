//! From ranks that met to ranks with devices: do they fit together, and what sums their gradients.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Device;

use super::{Collective, gather, host};
use crate::error::{Error, Result};

/// The collective for ranks that compute on `device`; `identity` tells GPUs apart and is None on the CPU.
///
/// Every rank must call it. Errors: some ranks have a GPU and others none; two ranks have the same one, unless they say by
/// NCCL_HOSTID that they mean to share it.
pub fn with_devices(
    collective: Arc<dyn Collective>,
    device: &Device,
    identity: Option<&str>,
) -> Result<Arc<dyn Collective>> {
    if collective.world() == 1 {
        return Ok(collective);
    }
    let mine = format!("{}\n{}", host(), identity.unwrap_or_default());
    let all: Vec<String> = gather(&*collective, mine.as_bytes())?
        .iter()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .collect();
    let all: Vec<(&str, &str)> = all.iter().filter_map(|place| place.split_once('\n')).collect();
    check(&all, std::env::var_os("NCCL_HOSTID").is_some())?;
    let hosts = all.iter().map(|(host, _)| (*host).to_owned()).collect();
    match identity {
        Some(_) => on_gpus(collective, device, hosts),
        None => Ok(collective),
    }
}

#[cfg(feature = "cuda")]
fn on_gpus(collective: Arc<dyn Collective>, device: &Device, hosts: Vec<String>) -> Result<Arc<dyn Collective>> {
    Ok(Arc::new(super::nccl::Nccl::join(collective, device, hosts)?))
}

#[cfg(not(feature = "cuda"))]
fn on_gpus(_: Arc<dyn Collective>, device: &Device, _: Vec<String>) -> Result<Arc<dyn Collective>> {
    unreachable!("{device:?} in a program without GPUs")
}

/// Host and GPU (empty on the CPU) of every rank.
fn check(all: &[(&str, &str)], sharing: bool) -> Result<()> {
    let on_cpu: Vec<String> = (0..all.len())
        .filter(|i| all[*i].1.is_empty())
        .map(|i| i.to_string())
        .collect();
    if !on_cpu.is_empty() && on_cpu.len() < all.len() {
        return Err(Error::Ranks {
            what: format!("ranks {} have no GPU, the others have", on_cpu.join(", ")),
            fix: "give every rank a GPU, or choose --device cpu".into(),
        });
    }
    let mut owners: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (rank, place) in all.iter().enumerate().filter(|(_, place)| !place.1.is_empty()) {
        if let Some(other) = owners.insert(*place, rank)
            && !sharing
        {
            return Err(Error::Ranks {
                what: format!("ranks {other} and {rank} have the same GPU of host {}", place.0),
                fix:
                    "start as many ranks per node as there are GPUs; to share one all the same, give each rank its own \
                      NCCL_HOSTID"
                        .into(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_its_own_gpu_or_none_has_one() {
        assert!(check(&[("a", "1"), ("a", "2"), ("b", "1")], false).is_ok());
        assert!(check(&[("a", ""), ("a", "")], false).is_ok());
        let error = check(&[("a", "1"), ("a", "2"), ("a", "1")], false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("ranks 0 and 2 have the same GPU of host a"), "{error}");
        assert!(check(&[("a", "1"), ("a", "1")], true).is_ok());
        let error = check(&[("a", "1"), ("b", "")], true).unwrap_err().to_string();
        assert!(error.contains("ranks 1 have no GPU"), "{error}");
    }
}
