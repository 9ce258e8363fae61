//! An evaluation class by class: `eval_classes.json`, and the table on the screen.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::Confusion;

pub const FILE_NAME: &str = "eval_classes.json";

/// More classes than this are not printed.
const PRINTED_CLASSES: usize = 30;
/// More classes than this have no confusion matrix on the screen.
const PRINTED_MATRIX: usize = 12;

/// The text of `eval_classes.json`: every class with its figures and what its samples were taken for.
pub fn classes_json(confusion: &Confusion, names: &[String]) -> String {
    let occurring = confusion.classes();
    let name = |class: u32| names[class as usize].as_str();
    let classes: Vec<Value> = (0..names.len() as u32)
        .map(|class| {
            let figures = occurring.get(&class).copied().unwrap_or_default();
            let predicted_as: Map<String, Value> = confusion
                .counts
                .range((class, 0)..=(class, u32::MAX))
                .map(|(&(_, prediction), &count)| (name(prediction).to_owned(), count.into()))
                .collect();
            json!({
                "name": name(class),
                "precision": figures.precision(),
                "recall": figures.recall(),
                "f1": figures.f1(),
                "samples": figures.support,
                "predicted": figures.predicted,
                "predicted_as": predicted_as,
            })
        })
        .collect();
    serde_json::to_string_pretty(&json!({ "classes": classes })).expect("plain data") + "\n"
}

/// One line a class, and the confusion matrix where there are few; None where there are many.
pub fn classes_table(confusion: &Confusion, names: &[String]) -> Option<String> {
    if names.len() > PRINTED_CLASSES {
        return None;
    }
    let occurring = confusion.classes();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5);
    let mut table = format!("{:<width$}  precision  recall      f1  samples\n", "class");
    for (class, name) in names.iter().enumerate() {
        let figures = occurring.get(&(class as u32)).copied().unwrap_or_default();
        let _ = writeln!(
            table,
            "{name:<width$}  {:>9.4}  {:>6.4}  {:>6.4}  {:>7}",
            figures.precision(),
            figures.recall(),
            figures.f1(),
            figures.support
        );
    }
    if names.len() <= PRINTED_MATRIX {
        table += "\nsamples of the class in the line, taken for the class in the column\n";
        let column = confusion
            .counts
            .values()
            .max()
            .map_or(1, |count| count.to_string().len())
            .max(3);
        let _ = write!(table, "{:<width$}", "");
        (0..names.len()).for_each(|class| table += &format!("  {class:>column$}"));
        for (label, name) in names.iter().enumerate() {
            let _ = write!(table, "\n{name:<width$}");
            for prediction in 0..names.len() as u32 {
                let count = confusion.counts.get(&(label as u32, prediction)).copied();
                table += &format!("  {:>column$}", count.unwrap_or_default());
            }
        }
        table += "\n";
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion() -> Confusion {
        Confusion {
            counts: [((0, 0), 8), ((0, 1), 2), ((1, 1), 5)].into(),
        }
    }

    fn names() -> Vec<String> {
        ["cat", "dog", "emu"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_file_names_every_class_and_what_it_was_taken_for() {
        let json: Value = serde_json::from_str(&classes_json(&confusion(), &names())).unwrap();
        assert_eq!(json["classes"][0]["predicted_as"], json!({"cat": 8, "dog": 2}));
        assert_eq!(json["classes"][0]["recall"], 0.8);
        assert_eq!(json["classes"][1]["predicted"], 7);
        assert_eq!(json["classes"][2]["samples"], 0);
    }

    #[test]
    fn few_classes_are_printed_with_their_matrix() {
        let table = classes_table(&confusion(), &names()).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "class  precision  recall      f1  samples");
        assert_eq!(lines[1], "cat       1.0000  0.8000  0.8889       10");
        assert_eq!(lines[7], "cat      8    2    0");
        let many: Vec<String> = (0..31).map(|n| n.to_string()).collect();
        assert_eq!(classes_table(&confusion(), &many), None);
    }
}
