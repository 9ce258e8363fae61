//! The output directory: claimed before training, filled at the end.

use std::fs;
use std::path::Path;

use super::{checkpoint, kept, whole};
use crate::error::{Error, IoContext, Result};
use crate::recipe::Recipe;
use crate::report::{CLASSES_FILE, PREDICTIONS_FILE};

/// Files of a finished run; they and the checkpoints are what `--overwrite-output-dir` removes.
const RESULTS: &[&str] = &[
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "all_results.json",
    "config.json",
    "dtrain_run.toml",
    CLASSES_FILE,
    PREDICTIONS_FILE,
    "eval_results.json",
    "model.safetensors",
    "preprocessor_config.json",
    "train_results.json",
    "trainer_state.json",
];

/// Makes the recipe's output directory ready; for rank 0. Returns lines for people about what was put right.
///
/// Errors: it cannot be written, which is better known now than after the first epoch; it holds another run's checkpoints
/// or results, and the recipe neither continues that run nor says to overwrite it.
pub fn claim(recipe: &Recipe) -> Result<Vec<String>> {
    let directory = &recipe.output_dir;
    fs::create_dir_all(directory).at("create", directory)?;
    whole::files(directory, |probe| checkpoint::put(probe, "writable", "")).and_then(|()| {
        let probe = directory.join("writable");
        fs::remove_file(&probe).at("remove", &probe)
    })?;
    let mut notes: Vec<String> = whole::clean(directory)?
        .into_iter()
        .map(|name| {
            format!(
                "removed {name}, which a run that was killed left in {}",
                directory.display()
            )
        })
        .collect();
    let found = contents(directory)?;
    // The figures of an evaluation may lie beside the model that was evaluated.
    if found.is_empty() || continues(recipe) || !recipe.do_train {
        return Ok(notes);
    }
    if !recipe.overwrite_output_dir {
        return Err(Error::usage(
            format!(
                "--output-dir {} holds another run: {}",
                directory.display(),
                found.join(", ")
            ),
            "continue it with --resume-from-checkpoint true, replace it with --overwrite-output-dir, or choose another",
        ));
    }
    for (_, path) in kept::all(directory)? {
        whole::delete(&path)?;
    }
    for path in RESULTS
        .iter()
        .map(|name| directory.join(name))
        .filter(|path| path.is_file())
    {
        fs::remove_file(&path).at("remove", &path)?;
    }
    notes.push(format!(
        "removed what another run left in {}: {}",
        directory.display(),
        found.join(", ")
    ));
    Ok(notes)
}

/// Removes checkpoints after `step`: the run goes on from there and would meet them as if they were its own.
pub fn forget_after(directory: &Path, step: u64) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (later, path) in kept::all(directory)? {
        if later > step {
            whole::delete(&path)?;
            notes.push(format!(
                "removed {}, which is later than the step resumed from",
                path.display()
            ));
        }
    }
    Ok(notes)
}

/// Does the recipe resume from within its own output directory?
fn continues(recipe: &Recipe) -> bool {
    match recipe.resume_from_checkpoint.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(path) => {
            let parent = Path::new(path)
                .canonicalize()
                .ok()
                .and_then(|path| path.parent().map(Path::to_owned));
            parent.is_some() && parent == recipe.output_dir.canonicalize().ok()
        }
    }
}

/// Names of what a run left in `directory`.
fn contents(directory: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = kept::all(directory)?
        .into_iter()
        .map(|(step, _)| format!("checkpoint-{step}"))
        .collect();
    names.extend(
        RESULTS
            .iter()
            .filter(|name| directory.join(name).is_file())
            .map(|name| (*name).to_owned()),
    );
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(directory: &Path) -> Recipe {
        Recipe {
            output_dir: directory.to_owned(),
            ..crate::recipe::built_in("vit-lora").unwrap()
        }
    }

    fn names(directory: &Path) -> Vec<String> {
        let paths = whole::entries(directory).unwrap();
        paths
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn another_runs_results_are_not_touched_unless_asked() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new/run");
        assert!(claim(&recipe(&directory)).unwrap().is_empty());
        fs::create_dir(directory.join("checkpoint-5")).unwrap();
        fs::create_dir(directory.join(".writing-checkpoint-9")).unwrap();
        checkpoint::put(&directory, "all_results.json", "{}").unwrap();
        checkpoint::put(&directory, "my notes.txt", "mine").unwrap();

        let error = claim(&recipe(&directory)).unwrap_err().to_string();
        for part in [
            "checkpoint-5, all_results.json",
            "--resume-from-checkpoint true",
            "--overwrite-output-dir",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let elsewhere = Recipe {
            resume_from_checkpoint: Some("/nowhere/checkpoint-1".into()),
            ..recipe(&directory)
        };
        assert!(claim(&elsewhere).is_err());
        for resumed in ["true", directory.join("checkpoint-5").to_str().unwrap()] {
            claim(&Recipe {
                resume_from_checkpoint: Some(resumed.into()),
                ..recipe(&directory)
            })
            .unwrap();
        }
        assert_eq!(names(&directory), ["all_results.json", "checkpoint-5", "my notes.txt"]);

        claim(&Recipe {
            overwrite_output_dir: true,
            ..recipe(&directory)
        })
        .unwrap();
        assert_eq!(names(&directory), ["my notes.txt"]);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let place = tempfile::tempdir().unwrap();
        checkpoint::put(place.path(), "file", "").unwrap();
        let error = claim(&recipe(&place.path().join("file/run"))).unwrap_err().to_string();
        assert!(error.contains("file/run"), "{error}");
    }
}
