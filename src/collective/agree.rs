//! Small agreements between ranks, made of the trait's calls.

use super::Collective;
use crate::error::{Error, Result};

/// The `bytes` of every rank, by rank, on every rank. The lengths may differ.
pub fn gather(collective: &dyn Collective, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut lengths = vec![0.0; collective.world()];
    lengths[collective.rank()] = bytes.len() as f64;
    collective.sum_f64(&mut lengths)?;
    let mut all = Vec::with_capacity(lengths.len());
    for (root, &length) in lengths.iter().enumerate() {
        let mut of_root = if root == collective.rank() {
            bytes.to_vec()
        } else {
            vec![0; length as usize]
        };
        collective.broadcast(&mut of_root, root)?;
        all.push(of_root);
    }
    Ok(all)
}

/// The `bytes` of rank 0, on every rank; what the others give is ignored.
pub fn share(collective: &dyn Collective, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    collective.broadcast(&mut length, 0)?;
    let mut of_first = match collective.rank() {
        0 => bytes,
        _ => vec![0; u64::from_le_bytes(length) as usize],
    };
    collective.broadcast(&mut of_first, 0)?;
    Ok(of_first)
}

/// Errors, on every rank, unless `bytes` are the same on all ranks. `what` names them in the message.
pub fn same_everywhere(collective: &dyn Collective, what: &str, bytes: &[u8]) -> Result<()> {
    let (rank, world) = (collective.rank(), collective.world());
    if world == 1 {
        return Ok(());
    }
    let mut of_first = fingerprint(bytes).to_le_bytes();
    collective.broadcast(&mut of_first, 0)?;
    let mut differs = vec![0.0; world];
    differs[rank] = f64::from(u8::from(of_first != fingerprint(bytes).to_le_bytes()));
    collective.sum_f64(&mut differs)?;
    let others: Vec<String> = (0..world)
        .filter(|&r| differs[r] > 0.0)
        .map(|r| r.to_string())
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::Ranks {
        what: format!("{what} of rank(s) {} is not that of rank 0", others.join(", ")),
        fix: "give all ranks the same program, flags, files and number of threads".into(),
    })
}

/// FNV-1a over 8-byte words, 64 bits: for detecting differences, not for security.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ bytes.len() as u64;
    for word in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_see_every_byte_and_the_length() {
        let base = vec![7u8; 21];
        for at in 0..base.len() {
            let mut other = base.clone();
            other[at] ^= 1;
            assert_ne!(fingerprint(&base), fingerprint(&other), "byte {at}");
        }
        assert_ne!(fingerprint(&[0; 8]), fingerprint(&[0; 9]));
    }
}
