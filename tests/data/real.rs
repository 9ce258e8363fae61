//! Real shards from the Hub, against datasets 5.2.0 itself.

use std::time::Instant;

use dtrain::data::TestSize;

use super::common::shared;
use super::fixtures::*;

/// Rows and fingerprints: `load_dataset(path, split=…)` with `Image(decode=False)`.
#[test]
fn rows_are_those_that_datasets_loads() {
    let table = [
        ("food10", "train", 800, 0xc568_3140_e36d_2914),
        ("food10", "validation", 350, 0x6e96_2555_9f26_8f16),
        ("food10", "train[:10%]+train[-5%:]", 120, 0x818c_8d6d_54b0_9544),
        ("cats_dogs", "train", 1099, 0x97a8_3cde_6b61_0796),
        ("cats_dogs", "test", 300, 0xdaad_2b90_8a36_fb21),
        ("cats_dogs", "train[:10%]+train[-5%:]", 165, 0x8c74_f7c7_3b6f_7739),
    ];
    for (name, split, rows, expected) in table {
        let Some(path) = shared(&format!("data/{name}")) else {
            return;
        };
        let started = Instant::now();
        let dataset = open(&path, split).unwrap();
        eprintln!("opened {name} {split} in {:?}", started.elapsed());
        assert_eq!(dataset.len(), rows, "{name} {split}");
        assert_eq!(fingerprint(&dataset), expected, "{name} {split}");
    }
}

/// `train_test_split(test_size=0.1, seed=42)` and `(test_size=77, seed=2**40 + 7)`.
#[test]
fn held_out_rows_are_those_that_datasets_holds_out() {
    let (tenth, some) = ((TestSize::Fraction(0.1), 42), (TestSize::Rows(77), (1 << 40) + 7));
    let table = [
        (
            "food10",
            tenth,
            (720, 0x4ea2_cd52_291b_dab2),
            (80, 0x5ac3_b2c4_f8be_8078),
        ),
        (
            "food10",
            some,
            (723, 0x8d9b_58d7_cb4f_7ac7),
            (77, 0x9771_fdae_0f58_ab59),
        ),
        (
            "cats_dogs",
            tenth,
            (989, 0xf4cc_a095_068c_15d7),
            (110, 0xf2fe_72c2_6cd0_da11),
        ),
        (
            "cats_dogs",
            some,
            (1022, 0xcb0d_9dce_c4f7_21d9),
            (77, 0xc9e6_aa35_776f_3857),
        ),
    ];
    for (name, (size, seed), train, test) in table {
        let Some(path) = shared(&format!("data/{name}")) else {
            return;
        };
        let parts = open(&path, "train").unwrap().train_test_split(size, seed).unwrap();
        assert_eq!((parts.0.len(), fingerprint(&parts.0)), train, "{name} {size:?}");
        assert_eq!((parts.1.len(), fingerprint(&parts.1)), test, "{name} {size:?}");
    }
}

#[test]
fn the_description_names_what_is_there() {
    let Some(path) = shared("data/food10") else { return };
    let dataset = open(&path, "train[:100]").unwrap();
    let description = dataset.describe();
    let splits: Vec<_> = description
        .splits
        .iter()
        .map(|split| (split.name.as_str(), split.files, split.rows))
        .collect();
    assert_eq!(splits, [("train", 3, Some(800)), ("validation", 2, Some(350))]);
    assert_eq!(description.image_column.as_deref(), Some("image"));
    assert_eq!(description.classes.len(), 10);
    assert_eq!(description.classes.iter().map(|(_, rows)| rows).sum::<usize>(), 100);
    assert_eq!(description.classes[0].0, "apple_pie");
    assert_eq!((description.ignored_columns.len(), description.notes.len()), (0, 0));
    assert_eq!(dataset.origin(99), "data/train-00000-of-00003.parquet row 99");
    assert_eq!(
        open(&path, "train[266:267]").unwrap().origin(0),
        "data/train-00001-of-00003.parquet row 0"
    );
}

#[test]
fn many_threads_read_the_same_rows() {
    let Some(path) = shared("data/food10") else { return };
    let dataset = open(&path, "train[:300]").unwrap();
    let alone: Vec<_> = (0..dataset.len()).map(|row| dataset.encoded(row).unwrap()).collect();
    let fresh = open(&path, "train[:300]").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (fresh, alone) = (fresh.clone(), &alone);
            scope.spawn(move || {
                // Each thread its own way through the rows: 7 and 300 have no common factor.
                for step in 0..300 {
                    let row = (step * 7 + thread * 75) % 300;
                    assert_eq!(fresh.encoded(row).unwrap(), alone[row]);
                }
            });
        }
    });
}

#[test]
fn a_single_file_is_a_training_split() {
    let Some(path) = shared("data/food10/data/validation-00001-of-00002.parquet") else {
        return;
    };
    let dataset = open(&path, "train").unwrap();
    assert_eq!((dataset.len(), dataset.classes().len()), (175, 10));
}
