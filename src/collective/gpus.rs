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
    let places = Places::gather(&*collective, identity)?;
    match identity {
        Some(_) => on_gpus(collective, device, places.hosts()),
        None => Ok(collective),
    }
}

/// How many ranks compute on this rank's device; 1 on a CPU. Every rank must call it. Errors: as above.
pub fn ranks_of_device(collective: &dyn Collective, identity: Option<&str>) -> Result<usize> {
    if collective.world() == 1 {
        return Ok(1);
    }
    Ok(Places::gather(collective, identity)?.sharing(collective.rank()))
}

/// Host and GPU (empty on the CPU) of every rank.
struct Places(Vec<(String, String)>);

impl Places {
    fn gather(collective: &dyn Collective, identity: Option<&str>) -> Result<Places> {
        let mine = format!("{}\n{}", host(), identity.unwrap_or_default());
        let all = gather(collective, mine.as_bytes())?;
        let place = |bytes: &Vec<u8>| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let (host, gpu) = text.split_once('\n').unwrap_or((&text, ""));
            (host.to_owned(), gpu.to_owned())
        };
        let places = Places(all.iter().map(place).collect());
        places.check(std::env::var_os("NCCL_HOSTID").is_some())?;
        Ok(places)
    }

    fn hosts(&self) -> Vec<String> {
        self.0.iter().map(|(host, _)| host.clone()).collect()
    }

    fn sharing(&self, rank: usize) -> usize {
        let mine = &self.0[rank];
        match mine.1.is_empty() {
            true => 1,
            false => self.0.iter().filter(|place| *place == mine).count(),
        }
    }

    /// Errors: some have a GPU and others none; two have the same one and do not mean to.
    fn check(&self, may_share: bool) -> Result<()> {
        let all = &self.0;
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
        let mut owners: BTreeMap<&(String, String), usize> = BTreeMap::new();
        for (rank, place) in all.iter().enumerate().filter(|(_, place)| !place.1.is_empty()) {
            if let Some(other) = owners.insert(place, rank)
                && !may_share
            {
                return Err(Error::Ranks {
                    what: format!("ranks {other} and {rank} have the same GPU of host {}", place.0),
                    fix:
                        "start as many ranks per node as there are GPUs; to share one all the same, give each rank its \
                         own NCCL_HOSTID"
                            .into(),
                });
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: &[(&str, &str)]) -> Places {
        Places(
            all.iter()
                .map(|(host, gpu)| ((*host).to_owned(), (*gpu).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn every_rank_has_its_own_gpu_or_none_has_one() {
        let check = |all: &[(&str, &str)], may_share| places(all).check(may_share);
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

    #[test]
    fn ranks_of_a_gpu_are_counted_node_by_node() {
        let all = places(&[("a", "1"), ("a", "2"), ("a", "1"), ("b", "1")]);
        assert_eq!([0, 1, 2, 3].map(|rank| all.sharing(rank)), [2, 1, 2, 1]);
        assert_eq!(places(&[("a", ""), ("a", "")]).sharing(0), 1);
    }
}
