//! The names that splits go by, in directories and in file names.
//!
//! The rules are those that datasets applies to a directory without further information (`data_files.py` of 5.2.0, by
//! comparison).

/// Standard splits in their order, each with the words that mean it.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The standard name behind an alias; any other name is its own.
pub(super) fn canonical(split: &str) -> &str {
    let meant = KEYWORDS.iter().find(|(_, words)| words.contains(&split));
    meant.map_or(split, |(name, _)| name)
}

/// Standard splits first, in their order, then the others by name.
pub(super) fn sort_key(split: &str) -> (usize, &str) {
    let place = KEYWORDS.iter().position(|(name, _)| *name == split);
    (place.unwrap_or(KEYWORDS.len()), split)
}

/// Where a split keyword is looked for.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Directory,
    FileName,
}

/// Distributes files over the standard splits; empty if no file carries a keyword. Files without one are left out.
///
/// Within a split, files come in the order of the patterns that datasets tries, then of their paths.
pub(super) fn assign<'a>(files: &[&'a str], place: Place) -> Vec<(&'static str, Vec<&'a str>)> {
    let split = |&(name, words): &(&'static str, &'static [&'static str])| {
        let mut found: Vec<(usize, &str)> = files
            .iter()
            .filter_map(|&file| Some((rank(file, words, place)?, file)))
            .collect();
        found.sort_unstable();
        (name, found.into_iter().map(|(_, file)| file).collect::<Vec<_>>())
    };
    KEYWORDS
        .iter()
        .map(split)
        .filter(|(_, files)| !files.is_empty())
        .collect()
}

/// Number of the first pattern that a path meets. The patterns are, for each word: alone, at the start, at the end, inside.
fn rank(path: &str, words: &[&str], place: Place) -> Option<usize> {
    let (directories, name) = path.rsplit_once('/').unwrap_or(("", path));
    let of_word = |word: &str| match place {
        Place::Directory => directories.split('/').filter_map(|part| match_kind(part, word)).min(),
        // A file name goes on after the keyword, if only with its extension.
        Place::FileName => match_kind(name, word).filter(|kind| [1, 3].contains(kind)),
    };
    words
        .iter()
        .enumerate()
        .find_map(|(i, word)| Some(4 * i + of_word(word)?))
}

/// 0: `word`; 1: `word-…`; 2: `…-word`; 3: `…-word-…`, for any separator.
fn match_kind(part: &str, word: &str) -> Option<usize> {
    let separator = |c: char| matches!(c, '-' | '.' | '_' | ' ' | '0'..='9');
    let places = part.match_indices(word).filter_map(|(start, _)| {
        let before = part[..start].chars().next_back();
        let after = part[start + word.len()..].chars().next();
        if before.is_some_and(|c| !separator(c)) || after.is_some_and(|c| !separator(c)) {
            return None;
        }
        Some(2 * before.is_some() as usize + after.is_some() as usize)
    });
    places.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_mean_the_standard_splits() {
        assert_eq!(canonical("dev"), "validation");
        assert_eq!(canonical("eval"), "test");
        assert_eq!(canonical("unsupervised"), "unsupervised");
        let mut names = ["zzz", "test", "abc", "train", "validation"];
        names.sort_by_key(|name| sort_key(name));
        assert_eq!(names, ["train", "validation", "test", "abc", "zzz"]);
    }

    #[test]
    fn keywords_stand_between_separators() {
        let kinds = [
            ("train", Some(0)),
            ("train-00000-of-00002.parquet", Some(1)),
            ("train0", Some(1)),
            ("my.train", Some(2)),
            ("my_train_set", Some(3)),
            ("trainer", None),
            ("retrain", None),
            ("strain train", Some(2)),
        ];
        for (name, kind) in kinds {
            assert_eq!(match_kind(name, "train"), kind, "{name}");
        }
    }

    #[test]
    fn files_follow_datasets_order() {
        let files = ["b/training/1", "b/train/2", "b/train/1", "x-train/0", "val/7", "README"];
        assert_eq!(
            assign(&files, Place::Directory),
            [
                ("train", vec!["b/train/1", "b/train/2", "x-train/0", "b/training/1"]),
                ("validation", vec!["val/7"]),
            ]
        );
        let files = [
            "d/a_test.parquet",
            "train.parquet",
            "train",
            "d/test-1.arrow",
            "other.parquet",
        ];
        assert_eq!(
            assign(&files, Place::FileName),
            [
                ("train", vec!["train.parquet"]),
                ("test", vec!["d/test-1.arrow", "d/a_test.parquet"])
            ]
        );
        assert!(assign(&["contest/x", "a.parquet"], Place::Directory).is_empty());
    }
}
