//! What a run tells people and files: progress, history, result files, tables, the model card.

mod history;
mod model_card;
mod progress;
mod results;
mod stages;
mod table;

pub use history::{EvaluationEntry, LogEntry, LossEntry, TotalsEntry, TrainerState};
pub use model_card::ModelCard;
pub use progress::{Now, Progress};
pub use results::Results;
pub use stages::{Stage, Stages};
pub use table::{duration, epochs_table, stages_table};
