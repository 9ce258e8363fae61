//! The drawn dataset.

use dtrain::data::{DemoDataset, DemoSubject, decode, write_demo_dataset};

use super::fixtures::*;

#[test]
fn the_drawn_dataset_opens_and_is_the_same_each_time() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let demo = DemoDataset {
        train_rows: 41,
        validation_rows: 16,
        ..DemoDataset::new(DemoSubject::FineTuning)
    };
    for dir in &dirs {
        // A second time over the first.
        write_demo_dataset(dir.path(), &demo).unwrap();
    }
    write_demo_dataset(dirs[1].path(), &demo).unwrap();
    for name in [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "README.md",
    ] {
        let [a, b] = [0, 1].map(|i| std::fs::read(dirs[i].path().join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }

    let train = open(dirs[0].path(), "train").unwrap();
    assert_eq!(train.classes(), DemoSubject::FineTuning.classes());
    assert_eq!(labels(&train), (0..41).map(|row| row % 8).collect::<Vec<_>>());
    let validation = open(dirs[0].path(), "validation").unwrap();
    assert_eq!(
        validation
            .describe()
            .classes
            .iter()
            .map(|(_, rows)| *rows)
            .collect::<Vec<_>>(),
        [2; 8]
    );
    let mut sizes = std::collections::BTreeSet::new();
    for dataset in [&train, &validation] {
        for row in 0..dataset.len() {
            let pixels = decode(&dataset.encoded(row).unwrap()).unwrap();
            assert!((160..=320).contains(&pixels.width) && (160..=320).contains(&pixels.height));
            let (low, high) = (
                pixels.rgb_hwc.iter().min().unwrap(),
                pixels.rgb_hwc.iter().max().unwrap(),
            );
            assert!(high - low > 60, "row {row} shows nothing");
            sizes.insert((pixels.width, pixels.height));
        }
    }
    assert!(sizes.len() > 50, "sizes vary, and no image occurs twice");
}

#[test]
fn the_two_subjects_have_no_class_in_common() {
    let [mut all, other] = [DemoSubject::FineTuning, DemoSubject::BaseModel].map(|subject| subject.classes().to_vec());
    all.extend(other);
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), count), (16, 16));
}
