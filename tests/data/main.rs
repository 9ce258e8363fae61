//! Datasets: from files to rows, as datasets 5.2.0 reads them.

mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod demo;
mod fixtures;
mod folders;
mod layouts;
mod real;
mod saved;
mod tables;
