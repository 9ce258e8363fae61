//! Ranks under a real mpirun: the collectives' sums are exact, and a job ends when one of its ranks does.
//!
//! Each test starts this very test program again under mpirun, as `rank_body` with the name of what the ranks shall do.
#![cfg(feature = "mpi")]

mod common;

use std::process::ExitCode;

use common::mpirun;
use dtrain::collective::{self, Collective};
use dtrain::error::{Error, Result};

const BODY: &str = "DTRAIN_TEST_RANK_BODY";

/// Not a test by itself: what the processes under mpirun do.
#[test]
fn rank_body() {
    let Ok(name) = std::env::var(BODY) else { return };
    let code = collective::job(|collective| match name.as_str() {
        "sums" => sums(&**collective),
        "one-fails" if collective.rank() == 1 => Err(Error::usage("the test wants this rank to fail", "nothing")),
        "all-fail" => Err(Error::usage("the test wants all ranks to fail", "nothing")),
        "one-panics" if collective.rank() == 1 => panic!("the test wants this rank to panic"),
        "one-differs" => {
            let ours = if collective.rank() == 2 { "another" } else { "the same" };
            collective::same_everywhere(&**collective, "the recipe", ours.as_bytes())
        }
        // Waits for the rank that fails, as a training step would.
        "one-fails" | "one-panics" => collective.barrier(),
        other => panic!("no body {other}"),
    });
    // The test harness would report success for any code of its own.
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
}

fn ranks(body: &str, world: usize) -> common::Ended {
    let program = std::env::current_exe().expect("the path of this test program");
    mpirun(
        world,
        &program,
        &["--exact", "rank_body", "--nocapture"],
        &[(BODY, body)],
    )
}

/// Integers up to 2^24 add up exactly in f32, so every element is known; the length is no multiple of any block.
fn sums(collective: &dyn Collective) -> Result<()> {
    let (rank, world) = (collective.rank() as u64, collective.world() as u64);
    assert_eq!(
        collective.local(),
        collective::LocalRank {
            rank: rank as usize,
            world: world as usize
        }
    );
    let of_ranks = world * (world + 1) / 2;
    for length in [0u64, 1, 7, 1001, 1_000_003] {
        let mut values: Vec<f32> = (0..length).map(|i| ((rank + 1) * (i % 4099)) as f32).collect();
        collective.sum_f32(&mut values)?;
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(i, &v)| v == (of_ranks * (i as u64 % 4099)) as f32),
            "f32 {length}"
        );
        let mut values: Vec<f64> = (0..length).map(|i| ((rank + 1) * (i + (1 << 40))) as f64).collect();
        collective.sum_f64(&mut values)?;
        assert!(
            values
                .iter()
                .enumerate()
                .all(|(i, &v)| v == (of_ranks * (i as u64 + (1 << 40))) as f64),
            "f64 {length}"
        );
    }
    for root in 0..world {
        let mut bytes: Vec<u8> = (0..257).map(|i| (i * (rank + 3)) as u8).collect();
        collective.broadcast(&mut bytes, root as usize)?;
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(i, &b)| b == (i as u64 * (root + 3)) as u8),
            "broadcast from {root}"
        );
    }
    let texts = collective::gather(collective, "x".repeat(rank as usize).as_bytes())?;
    assert!(
        texts
            .iter()
            .enumerate()
            .all(|(r, text)| *text == "x".repeat(r).into_bytes()),
        "gather"
    );
    let shared = collective::share(collective, vec![rank as u8 + 9; rank as usize + 5])?;
    assert_eq!(shared, [9; 5]);
    collective.barrier()
}

#[test]
fn sums_and_broadcasts_are_exact() {
    for world in [1, 2, 3, 4] {
        let ended = ranks("sums", world);
        assert_eq!(ended.code, Some(0), "{world} ranks:\n{}", ended.text);
    }
}

#[test]
fn an_error_on_one_rank_ends_the_others_and_is_told_once() {
    let ended = ranks("one-fails", 3);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
    assert!(ended.text.contains("error on rank 1 of 3 ("), "{}", ended.text);
    assert!(
        ended.text.contains("the test wants this rank to fail"),
        "{}",
        ended.text
    );
}

#[test]
fn an_error_on_all_ranks_is_told_once() {
    let ended = ranks("all-fail", 4);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert_eq!(ended.text.matches("error on rank").count(), 1, "{}", ended.text);
}

#[test]
fn a_panic_on_one_rank_ends_the_others() {
    let ended = ranks("one-panics", 2);
    assert_eq!(ended.code, Some(101), "{}", ended.text);
    assert!(ended.text.contains("error on rank 1 of 2 ("), "{}", ended.text);
    assert!(
        ended.text.contains("the test wants this rank to panic"),
        "{}",
        ended.text
    );
}

#[test]
fn ranks_that_disagree_are_named() {
    let ended = ranks("one-differs", 3);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(
        ended.text.contains("the recipe of rank(s) 2 is not that of rank 0"),
        "{}",
        ended.text
    );
}
