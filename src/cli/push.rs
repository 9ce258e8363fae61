//! `--push-to-hub`: what a run leaves goes to the Hub. Whether it can is found out before the run.

use std::path::PathBuf;

use super::{fetch, say};
use crate::error::{Error, Result};
use crate::hub::{self, Hub, Visibility};
use crate::recipe::Recipe;

/// A push that the Hub will take.
pub struct Push {
    hub: Hub,
    /// Full name of the repository.
    id: String,
    directory: PathBuf,
    visibility: Visibility,
}

/// What Trainer calls the last commit.
const SUMMARY: &str = "End of training";

/// Asks the Hub whether it knows us; None: the recipe wants no push.
pub fn prepare(recipe: &Recipe) -> Result<Option<Push>> {
    if !recipe.push_to_hub {
        return Ok(None);
    }
    let name = match &recipe.hub_model_id {
        Some(id) => id.clone(),
        None => {
            let last = recipe.output_dir.file_name();
            let last = last.ok_or_else(|| {
                Error::usage(
                    format!("--push-to-hub: `{}` gives no name", recipe.output_dir.display()),
                    "name the repository: --hub-model-id NAME",
                )
            })?;
            last.to_string_lossy().into_owned()
        }
    };
    let hub = fetch::hub(recipe.cache_dir.as_deref(), recipe.token.as_deref())?;
    Ok(Some(Push {
        id: hub.can_push(&name)?,
        hub,
        directory: recipe.output_dir.clone(),
        visibility: match recipe.hub_private_repo {
            true => Visibility::Private,
            false => Visibility::Default,
        },
    }))
}

impl Push {
    pub fn carry_out(&self) -> Result<()> {
        let pushed = self.hub.push(&hub::Push {
            directory: &self.directory,
            name: &self.id,
            visibility: self.visibility,
            summary: SUMMARY,
        })?;
        say(&format!("on the Hub: {}\n", pushed.url));
        Ok(())
    }
}
