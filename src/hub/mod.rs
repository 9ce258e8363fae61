//! The Hugging Face Hub: models and datasets by name, downloaded into the cache that Python's huggingface_hub shares, and
//! results pushed back.
//!
//! The crate hf-hub gives names, addresses and the places in the cache. Requests are made here, with the client that it
//! brings (ureq), because it throws away what an answer says about an error, takes a part of a file for the whole of it, and
//! verifies nothing. What files of a repository are wanted is decided elsewhere; a directory comes out of here.

mod cache;
mod client;
mod download;
mod hash;
mod name;
mod open;
mod progress;
mod refusal;
mod remote;
mod settings;
mod similar;
mod tree;
mod upload;

pub use name::{Kind, Repository, is_name};
pub use open::Hub;
pub use remote::Remote;
pub use settings::{Settings, Token};
pub use upload::{Push, Pushed, Visibility};
