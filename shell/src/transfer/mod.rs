//! Many rows at once, from files.

mod import;
mod progress;
mod rows;
mod state;

pub(crate) use import::import;
