//! Which files are which split.

use std::path::Path;

use dtrain::data::{Columns, Dataset};

use super::fixtures::*;

/// Shards of which each has one row, whose label tells which shard it is.
fn shards(root: &Path, names: &[&str]) {
    let classes = features(&["a", "b", "c", "d", "e", "f"]);
    for (number, name) in names.iter().enumerate() {
        write_parquet(&root.join(name), &usual(1, Some(&classes), |_| number as i64));
    }
}

/// Opens every split by name; gives (name, shards in their order).
fn splits(root: &Path) -> Vec<(String, Vec<u32>)> {
    let names = open(root, "train")
        .or_else(|_| open(root, "test"))
        .unwrap()
        .describe()
        .splits;
    names
        .into_iter()
        .map(|split| (split.name.clone(), labels(&open(root, &split.name).unwrap())))
        .collect()
}

fn expect(names: &[&str], expected: &[(&str, &[u32])]) {
    let dir = tempfile::tempdir().unwrap();
    shards(dir.path(), names);
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, shards)| (name.to_string(), shards.to_vec()))
        .collect();
    assert_eq!(splits(dir.path()), expected, "{names:?}");
}

#[test]
fn the_hubs_layouts() {
    expect(
        &[
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/unsupervised-00000-of-00001.parquet",
            "data/test-00000-of-00001-0123456789abcdef.parquet",
            "extra/validation.parquet",
        ],
        &[("train", &[1, 0]), ("test", &[3]), ("unsupervised", &[2])],
    );
    expect(
        &[
            "default/train/0001.parquet",
            "default/train/0000.parquet",
            "default/partial-test/0000.parquet",
        ],
        &[("train", &[1, 0]), ("partial-test", &[2])],
    );
    expect(
        &["train/b.parquet", "train/a.parquet", "dev/x.parquet", "other/y.parquet"],
        &[("train", &[1, 0]), ("validation", &[2])],
    );
    expect(
        &["my_train.parquet", "sub/eval-0.parquet", "README.parquet"],
        &[("train", &[0]), ("test", &[1])],
    );
    expect(&["b/two.parquet", "a.parquet"], &[("train", &[1, 0])]);
}

#[test]
fn aliases_find_the_split_and_unknown_names_list_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    shards(
        dir.path(),
        &["data/train-00000-of-00001.parquet", "data/val-00000-of-00001.parquet"],
    );
    for alias in ["val", "validation", "dev", "valid"] {
        assert_eq!(labels(&open(dir.path(), alias).unwrap()), [1], "{alias}");
    }
    assert_eq!(labels(&open(dir.path(), "training+dev").unwrap()), [0, 1]);
    let message = refusal(dir.path(), "test");
    assert!(
        message.contains("no split `test`") && message.contains("train, val"),
        "{message}"
    );
}

#[test]
fn the_readme_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    shards(
        dir.path(),
        &[
            "data/train-00000-of-00001.parquet",
            "x/one.parquet",
            "x/two.parquet",
            "y/deep/three.parquet",
        ],
    );
    let card = |files: &str| {
        write(
            &dir.path().join("README.md"),
            format!("---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"),
        );
    };
    card("  - split: train\n    path: x/*\n  - split: extra\n    path:\n    - ./y/**\n    - x/t[vw]o.parquet\n");
    assert_eq!(
        splits(dir.path()),
        [("train".to_owned(), vec![1, 2]), ("extra".to_owned(), vec![3, 2])]
    );
    let notes = open(dir.path(), "train").unwrap().describe().notes;
    assert_eq!(
        notes,
        ["1 files belong to no split and are left out: data/train-00000-of-00001.parquet"]
    );
    card("  - split: train\n    path: z/*\n");
    let message = refusal(dir.path(), "train");
    assert!(message.contains("`z/*` of split `train` meets no file"), "{message}");
}

#[test]
fn configurations_are_named_or_the_default() {
    let dir = tempfile::tempdir().unwrap();
    shards(dir.path(), &["big/train/0000.parquet", "small/train/0000.parquet"]);
    let message = refusal(dir.path(), "train");
    assert!(
        message.contains("2 configurations") && message.contains("big, small"),
        "{message}"
    );
    let small = Dataset::open_configuration(dir.path(), Some("small"), "train", &Columns::default()).unwrap();
    assert_eq!(labels(&small), [1]);
    assert_eq!(labels(&open(&dir.path().join("big"), "train").unwrap()), [0]);

    write(
        &dir.path().join("README.md"),
        "---\nconfigs:\n- config_name: s\n  data_dir: small\n- config_name: b\n  data_files: big/train/*\n---\n",
    );
    for (name, shard) in [("s", 1), ("b", 0)] {
        let dataset = Dataset::open_configuration(dir.path(), Some(name), "train", &Columns::default()).unwrap();
        assert_eq!(labels(&dataset), [shard], "{name}");
    }
}

#[test]
fn missing_shards_are_named() {
    let dir = tempfile::tempdir().unwrap();
    shards(
        dir.path(),
        &["data/train-00000-of-00004.parquet", "data/train-00002-of-00004.parquet"],
    );
    let message = refusal(dir.path(), "train");
    assert!(
        message.contains("2 of 4 shards are missing, the first is data/train-00001-of-00004.parquet"),
        "{message}"
    );

    let dir = tempfile::tempdir().unwrap();
    shards(
        dir.path(),
        &[
            "data/train-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ],
    );
    assert!(refusal(dir.path(), "train").contains("shards of two sequences"));

    let dir = tempfile::tempdir().unwrap();
    shards(
        dir.path(),
        &["default/train/0000.parquet", "default/train/0002.parquet"],
    );
    assert!(refusal(dir.path(), "train").contains("2 shards, but the last one is called default/train/0002.parquet"));
}

#[test]
fn what_is_no_dataset_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path(), "train").contains("none of its 0 files"));
    write(&dir.path().join("notes.txt"), "words");
    assert!(refusal(dir.path(), "train").contains("none of its 1 files"));
    assert!(refusal(&dir.path().join("notes.txt"), "train").contains("neither in .parquet nor in .arrow"));
    assert!(refusal(&dir.path().join("nowhere"), "train").contains("nowhere"));
    write_parquet(
        &dir.path().join("empty.parquet"),
        &usual(0, Some(&features(&["a"])), |_| 0),
    );
    assert!(refusal(dir.path(), "train").contains("has no rows: train has 0"));
    write_parquet(
        &dir.path().join("empty.parquet"),
        &usual(5, Some(&features(&["a"])), |_| 0),
    );
    assert!(refusal(dir.path(), "train[5:]").contains("`train[5:]` has no rows: train has 5"));
}

#[test]
fn shards_must_have_the_same_classes() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(
        &dir.path().join("a.parquet"),
        &usual(1, Some(&features(&["x", "y"])), |_| 0),
    );
    write_parquet(
        &dir.path().join("b.parquet"),
        &usual(1, Some(&features(&["y", "x"])), |_| 0),
    );
    let message = refusal(dir.path(), "train");
    assert!(
        message.contains("a.parquet and b.parquet do not have the same classes"),
        "{message}"
    );
}
