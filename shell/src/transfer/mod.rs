//! Many rows at once, from files and into files.

mod encode;
mod export;
mod export_state;
mod import;
mod place;
mod progress;
mod ranges;
mod rows;
mod state;

pub(crate) use export::export;
pub(crate) use import::import;
