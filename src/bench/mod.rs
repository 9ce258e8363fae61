//! How long the parts of a run take on this machine, each beside what the machine could do at best.
//!
//! A measurement warms up, repeats, and gives the median with the extremes. It also checks its answer, so that nothing
//! wrong is ever fast. What is measured is the code that trains, called as training calls it.

mod allreduce;
mod data;
mod loading;
mod machine;
mod parts;
mod report;
mod spread;
mod step;
mod whole;

pub use allreduce::{AllReduce, allreduce};
pub use data::{DataPath, data};
pub use loading::{Loading, loading};
pub use machine::Machine;
pub use report::{Figure, Report, Table};
pub use spread::Spread;
pub use step::{Step, step};
pub use whole::{Whole, whole};
