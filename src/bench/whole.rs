//! A whole training run as its user sees it: the program started anew each time, from the command to the finished model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::spread::Spread;
use super::{Figure, Report};
use crate::error::{Error, IoContext, Result};

/// What is measured.
pub struct Whole {
    /// The program and what comes before it, such as `mpirun -n 2 dtrain`.
    pub command: Vec<String>,
    /// Arguments of the training run, without an output directory.
    pub arguments: Vec<String>,
    /// A directory that does not exist; it is made and removed.
    pub place: PathBuf,
    pub rounds: usize,
}

/// Errors: the run fails (its last words are in the message).
pub fn whole(what: &Whole) -> Result<Report> {
    let mut report = Report::new("train", &["", "s"]);
    report.setting("command", what.command.join(" "));
    report.setting("arguments", what.arguments.join(" "));
    report.setting("rounds", format!("{}, median [least-most]", what.rounds));
    let (mut seconds, mut loops, mut accuracies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..what.rounds {
        let begun = Instant::now();
        let results = run(what)?;
        seconds.push(begun.elapsed().as_secs_f64());
        loops.extend(results["train_runtime"].as_f64());
        accuracies.extend(results["eval_accuracy"].as_f64());
    }
    let all = Spread::of(seconds);
    report.row(vec![
        Figure::Text("from the command to the finished model".into()),
        Figure::Spread(all, 2),
    ]);
    if loops.len() == what.rounds {
        let inside = Spread::of(loops);
        report.row(vec![
            Figure::Text("training and evaluation".into()),
            Figure::Spread(inside, 2),
        ]);
        let rest = all.median - inside.median;
        report.row(vec![Figure::Text("start and end".into()), Figure::Number(rest, 2)]);
    }
    if accuracies.len() == what.rounds {
        let same = accuracies.iter().all(|a| a.to_bits() == accuracies[0].to_bits());
        report.notes.push(format!(
            "Accuracy {:.4}{}.",
            accuracies[0],
            if same {
                " in every round"
            } else {
                " in the first round; ROUNDS DIFFER"
            }
        ));
    }
    Ok(report)
}

/// One run's `all_results.json`.
fn run(what: &Whole) -> Result<Value> {
    let output = what.place.join("output");
    std::fs::create_dir_all(&what.place).at("create", &what.place)?;
    let done = attempt(what, &output);
    std::fs::remove_dir_all(&what.place).at("remove", &what.place)?;
    done
}

fn attempt(what: &Whole, output: &Path) -> Result<Value> {
    let [program, first @ ..] = what.command.as_slice() else {
        return Err(Error::usage("there is no command to run", "name a program"));
    };
    let ended = Command::new(program)
        .args(first)
        .args(&what.arguments)
        .arg("--output-dir")
        .arg(output)
        .stdin(Stdio::null())
        .output()
        .at("start", Path::new(program))?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let last: Vec<&str> = said.lines().rev().take(4).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(Error::usage(
            format!("the run ended with {}: {}", ended.status, last.join("\n")),
            "try the same arguments with `dtrain train`",
        ));
    }
    let path = output.join("all_results.json");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    serde_json::from_str(&text).map_err(|e| Error::usage(format!("{}: {e}", path.display()), "report this bug"))
}
