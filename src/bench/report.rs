//! A measurement's results: aligned tables for people, one JSON object for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{Machine, Spread};

/// What one benchmark found.
pub struct Report {
    /// `data`, `step`, `allreduce`, `train`.
    pub benchmark: &'static str,
    pub machine: Machine,
    /// What was measured: names and values of the run's settings.
    pub settings: Vec<(&'static str, String)>,
    pub table: Table,
    /// Further tables, looking at the same thing more closely.
    pub more: Vec<Table>,
    /// What to think of it, a sentence each.
    pub notes: Vec<String>,
}

pub struct Table {
    /// Under which JSON has its rows.
    pub name: &'static str,
    pub columns: Vec<&'static str>,
    /// As many figures as columns each.
    pub rows: Vec<Vec<Figure>>,
}

/// A cell of the table.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    Text(String),
    Count(u64),
    /// With this number of decimals.
    Number(f64, usize),
    /// Median and extremes, with this number of decimals.
    Spread(Spread, usize),
    /// Does not apply.
    Nothing,
}

impl Report {
    pub fn new(benchmark: &'static str, columns: &[&'static str]) -> Report {
        Report {
            benchmark,
            machine: Machine::here(),
            settings: Vec::new(),
            table: Table::new("rows", columns),
            more: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn setting(&mut self, name: &'static str, value: impl ToString) {
        self.settings.push((name, value.to_string()));
    }

    /// One more row of the first table.
    pub fn row(&mut self, figures: Vec<Figure>) {
        self.table.row(figures);
    }

    /// Machine and settings, the tables, the notes.
    pub fn text(&self) -> String {
        let mut text = format!("dtrain bench {}\n", self.benchmark);
        for (name, value) in self.machine.facts().iter().chain(&self.settings) {
            let _ = writeln!(text, "  {name:<12} {value}");
        }
        text += &self.table.text();
        for table in &self.more {
            text += "\n";
            text += &table.text();
        }
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        text
    }

    /// The same as one object; `rows` has an object for each row of the first table, with the columns as keys, and further
    /// tables stand likewise under their names.
    pub fn json(&self) -> Value {
        let object = |facts: &[(&'static str, String)]| -> Value {
            Value::Object(facts.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect())
        };
        let mut all = json!({
            "benchmark": self.benchmark,
            "machine": object(&self.machine.facts()),
            "settings": object(&self.settings),
            "notes": self.notes,
        });
        for table in std::iter::once(&self.table).chain(&self.more) {
            all[table.name] = table.json();
        }
        all
    }
}

impl Table {
    pub fn new(name: &'static str, columns: &[&'static str]) -> Table {
        Table {
            name,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, figures: Vec<Figure>) {
        assert_eq!(figures.len(), self.columns.len(), "figures of a row");
        self.rows.push(figures);
    }

    /// Aligned: the first column to the left, numbers to the right.
    fn text(&self) -> String {
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(Figure::text).collect())
            .collect();
        let width = |column: usize| {
            let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(self.columns[column].chars().count())
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                });
            let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
        };
        line(&mut self.columns.iter().copied());
        for row in &cells {
            line(&mut row.iter().map(String::as_str));
        }
        text
    }

    fn json(&self) -> Value {
        let row = |figures: &Vec<Figure>| -> Value {
            let pairs = self.columns.iter().zip(figures);
            Value::Object(pairs.map(|(k, f)| ((*k).to_owned(), f.json())).collect::<Map<_, _>>())
        };
        self.rows.iter().map(row).collect()
    }
}

impl Figure {
    pub fn text(&self) -> String {
        match self {
            Figure::Text(text) => text.clone(),
            Figure::Count(count) => count.to_string(),
            Figure::Number(value, decimals) => format!("{value:.decimals$}"),
            Figure::Spread(s, decimals) => {
                let d = *decimals;
                format!("{:.d$} [{:.d$}-{:.d$}]", s.median, s.least, s.most)
            }
            Figure::Nothing => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Figure::Text(text) => json!(text),
            Figure::Count(count) => json!(count),
            Figure::Number(value, _) => json!(value),
            Figure::Spread(s, _) => json!({"median": s.median, "least": s.least, "most": s.most}),
            Figure::Nothing => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("data", &["stage", "images/s"]);
        report.setting("images", 7);
        let spread = Spread::of(vec![1.0, 2.0, 4.0]);
        report.row(vec![Figure::Text("decode".into()), Figure::Spread(spread, 1)]);
        report.row(vec![Figure::Text("read".into()), Figure::Nothing]);
        report
    }

    #[test]
    fn columns_are_aligned() {
        let text = report().text();
        let lines: Vec<&str> = text.lines().collect();
        let [.., head, decode, read] = lines.as_slice() else {
            panic!("{text}")
        };
        assert_eq!(*head, "stage        images/s");
        assert_eq!(*decode, "decode  2.0 [1.0-4.0]");
        assert_eq!(*read, "read                -");
        assert!(text.contains("  images       7\n"), "{text}");
    }

    #[test]
    fn json_has_every_figure() {
        let mut report = report();
        report.more.push(Table::new("parts", &["part"]));
        report.more[0].row(vec![Figure::Count(3)]);
        let json = report.json();
        assert_eq!(json["parts"][0]["part"], 3);
        assert_eq!(json["rows"][0]["images/s"]["most"], 4.0);
        assert!(json["rows"][1]["images/s"].is_null());
        assert_eq!(json["settings"]["images"], "7");
    }
}
