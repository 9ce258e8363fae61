//! What a run tells people and files: progress, history, result files, tables, the model card.

mod bottleneck;
mod class_report;
mod history;
mod metrics;
mod model_card;
mod predictions;
mod progress;
mod results;
mod stages;
mod table;
mod tensorboard;

pub use bottleneck::{OnDevice, Supply, bottleneck};
pub use class_report::{FILE_NAME as CLASSES_FILE, classes_json, classes_table};
pub use history::{EvaluationEntry, LogEntry, LossEntry, TotalsEntry, TrainerState};
pub use metrics::{ClassFigures, Confusion, Figures, Outcome};
pub use model_card::ModelCard;
pub use predictions::{FILE_NAME as PREDICTIONS_FILE, predictions_csv};
pub use progress::{Now, Progress};
pub use results::Results;
pub use stages::{Begun, Stage, Stages};
pub use table::{duration, epochs_table, stages_table};
pub use tensorboard::EventFile;
