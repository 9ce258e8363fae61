//! `eval_predictions.csv`: what the final model says of every validation sample.

use super::Outcome;

pub const FILE_NAME: &str = "eval_predictions.csv";

/// One line a sample: where it comes from, its label, the predicted class, the prediction's probability. `origin` tells a row's
/// place.
pub fn predictions_csv(outcomes: &[Outcome], names: &[String], origin: impl Fn(u32) -> String) -> String {
    let mut text = String::from("sample,label,prediction,score\n");
    for outcome in outcomes {
        let [label, prediction] = [outcome.label, outcome.prediction].map(|class| field(&names[class as usize]));
        text += &format!(
            "{},{label},{prediction},{}\n",
            field(&origin(outcome.row)),
            outcome.score
        );
    }
    text
}

/// As RFC 4180 has it: in quotes where there would be doubt.
fn field(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_quotes_stay_one_field() {
        let names = ["big, old".to_owned(), "a \"dog\"".to_owned()];
        let outcome = Outcome::new(3, 0, &[0.0, 0.0], 0.5);
        let text = predictions_csv(&[outcome], &names, |row| format!("a.parquet row {row}"));
        assert_eq!(
            text,
            "sample,label,prediction,score\na.parquet row 3,\"big, old\",\"big, old\",0.5\n"
        );
        assert_eq!(field(&names[1]), "\"a \"\"dog\"\"\"");
    }
}
