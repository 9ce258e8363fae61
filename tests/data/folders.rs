//! Image folders.

use std::path::Path;

use dtrain::data::{Columns, Dataset};

use super::fixtures::*;

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        write(&dir.path().join(file), format!("content of {file}"));
    }
    dir
}

fn origins(dataset: &Dataset) -> Vec<String> {
    (0..dataset.len()).map(|row| dataset.origin(row)).collect()
}

#[test]
fn directories_are_classes() {
    let dir = folder(&[
        "dog/2.PNG",
        "cat/1.jpg",
        "cat/0.jpeg",
        "cat/notes.txt",
        "dog/.hidden.jpg",
        "Ant/x.webp",
    ]);
    std::fs::create_dir(dir.path().join("eel")).unwrap();
    let dataset = open(dir.path(), "train").unwrap();
    assert_eq!(dataset.classes(), ["Ant", "cat", "dog"]);
    assert_eq!(
        origins(&dataset),
        ["Ant/x.webp", "cat/0.jpeg", "cat/1.jpg", "dog/2.PNG"]
    );
    assert_eq!(labels(&dataset), [0, 1, 1, 2]);
    assert_eq!(dataset.encoded(2).unwrap(), "content of cat/1.jpg");
    let notes = dataset.describe().notes;
    assert_eq!(
        notes,
        [
            "1 files are not images and are ignored: cat/notes.txt",
            "1 class directories hold no image: eel"
        ]
    );
    std::fs::remove_file(dir.path().join("cat/1.jpg")).unwrap();
    assert!(
        dataset
            .encoded(2)
            .unwrap_err()
            .to_string()
            .starts_with("image cat/1.jpg: cannot be read")
    );
}

#[test]
fn splits_are_directories_and_share_their_classes() {
    let dir = folder(&[
        "x/train/cat/1.jpg",
        "x/train/eel/1.jpg",
        "x/val/cat/2.jpg",
        "x/val/dog/2.jpg",
        "x/demo/cat/3.jpg",
    ]);
    let train = open(dir.path(), "train").unwrap();
    assert_eq!((labels(&train), train.classes().len()), (vec![0, 2], 3));
    let validation = open(dir.path(), "validation").unwrap();
    assert_eq!(
        (labels(&validation), origins(&validation)[1].as_str()),
        (vec![0, 1], "x/val/dog/2.jpg")
    );
    assert_eq!(labels(&open(dir.path(), "val[1:]+train[:1]").unwrap()), [1, 0]);
    let description = train.describe();
    assert_eq!(description.splits[1].rows, Some(2));
    assert_eq!(
        description.notes,
        ["1 files belong to no split and are left out: x/demo/cat/3.jpg"]
    );
}

#[test]
fn links_into_circles_do_not_hang() {
    let dir = folder(&["cat/1.jpg", "dog/1.jpg"]);
    std::os::unix::fs::symlink("..", dir.path().join("cat/loop")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("dog/1.jpg"), dir.path().join("cat/2.jpg")).unwrap();
    let dataset = open(dir.path(), "train").unwrap();
    assert_eq!(origins(&dataset), ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]);
    assert_eq!(
        dataset.describe().notes,
        ["1 links lead nowhere or into a circle: cat/loop"]
    );
}

#[test]
fn folders_without_clear_classes_are_refused() {
    for (files, word) in [
        (
            &["cat/1.jpg", "stray.jpg"][..],
            "stray.jpg: the image lies in no class directory",
        ),
        (
            &["cat/1.jpg", "dog/old/1.jpg"],
            "different levels, as cat/1.jpg and dog/old/1.jpg",
        ),
        (&["cat/1.jpg", "cat/2.jpg"], "one class only"),
    ] {
        let dir = folder(files);
        let message = refusal(dir.path(), "train");
        assert!(message.contains(word), "{message}");
    }
}

fn with_metadata(name: &str, text: &str) -> tempfile::TempDir {
    let dir = folder(&["train/a.jpg", "train/sub/b.jpg", "train/c.jpg"]);
    write(&dir.path().join("train").join(name), text);
    dir
}

fn open_labelled(path: &Path, label: &str) -> dtrain::error::Result<Dataset> {
    let columns = Columns {
        image: None,
        label: Some(label.to_owned()),
    };
    Dataset::open(path, "train", &columns)
}

#[test]
fn metadata_files_replace_directories() {
    let csv = "file_name,label,kind,number\nsub/b.jpg,1,\"big, old\",x\na.jpg,0,small,7\n";
    let lines = "{\"file_name\": \"sub/b.jpg\", \"label\": 1, \"kind\": \"big, old\", \"number\": 1.5}\n\n\
                 {\"file_name\": \"./a.jpg\", \"label\": 0, \"kind\": \"small\"}\n";
    for (name, text) in [("metadata.csv", csv), ("metadata.jsonl", lines)] {
        let dir = with_metadata(name, text);
        let dataset = open(dir.path(), "train").unwrap();
        assert_eq!(
            (origins(&dataset), labels(&dataset)),
            (vec!["train/sub/b.jpg".into(), "train/a.jpg".into()], vec![1, 0])
        );
        assert_eq!(dataset.describe().ignored_columns, ["kind", "number"]);
        assert_eq!(
            dataset.describe().notes,
            ["1 images are in no metadata file and are left out: train/c.jpg"]
        );
        let dataset = open_labelled(dir.path(), "kind").unwrap();
        assert_eq!(
            (dataset.classes().join("|"), labels(&dataset)),
            ("big, old|small".into(), vec![0, 1])
        );
    }
}

#[test]
fn metadata_may_be_parquet() {
    let dir = folder(&["train/a.jpg", "train/b.jpg"]);
    let text =
        |texts: &[&str]| std::sync::Arc::new(arrow::array::StringArray::from(texts.to_vec())) as arrow::array::ArrayRef;
    let columns = [("file_name", text(&["b.jpg", "a.jpg"])), ("label", text(&["x", "y"]))];
    write_parquet(&dir.path().join("train/metadata.parquet"), &batch(&columns, None));
    let dataset = open(dir.path(), "train").unwrap();
    assert_eq!(
        (origins(&dataset), labels(&dataset)),
        (vec!["train/b.jpg".into(), "train/a.jpg".into()], vec![0, 1])
    );
}

#[test]
fn broken_metadata_is_refused_with_its_row() {
    for (name, text, words) in [
        (
            "metadata.csv",
            "file_name,label\na.jpg,0\ngone.jpg,1\n",
            "row 1: there is no file gone.jpg",
        ),
        (
            "metadata.csv",
            "file_name,label\n../train/a.jpg,0\n",
            "row 0: ../train/a.jpg does not lie below",
        ),
        ("metadata.csv", "file_name,label\na.jpg,0,5\n", "row 0 has 3 fields"),
        (
            "metadata.csv",
            "file,label\na.jpg,0\n",
            "no column file_name; the columns are: file, label",
        ),
        (
            "metadata.csv",
            "file_name,words\na.jpg,0\n",
            "no column label; the columns are: file_name, words",
        ),
        (
            "metadata.csv",
            "file_name,label\na.jpg,\nc.jpg,1\n",
            "train/a.jpg: the label is missing",
        ),
        ("metadata.csv", "", "no column file_name"),
        (
            "metadata.jsonl",
            "{\"file_name\": \"a.jpg\", \"label\": 1}\n{",
            "row 1: ",
        ),
        (
            "metadata.jsonl",
            "{\"file_name\": \"a.jpg\", \"label\": [1]}\n",
            "row 0: [1] is not a label",
        ),
        (
            "metadata.jsonl",
            "{\"file_name\": \"a.jpg\", \"label\": \"x\"}\n{\"file_name\": \"c.jpg\", \"label\": 1}",
            "row 1",
        ),
        (
            "metadata.jsonl",
            "{\"file_name\": null, \"label\": 1}\n",
            "row 0: there is no file_name",
        ),
    ] {
        let dir = with_metadata(name, text);
        let message = refusal(dir.path(), "train");
        assert!(message.contains(words), "{name} {text:?}: {message}");
    }
}
