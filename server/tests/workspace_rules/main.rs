//! The rules that hold the workspace together, checked from cargo's own metadata: which crate may depend on which,
//! which licences may come in, and that no member leaves the shared lints and edition; and from the sources that a test
//! draws the same cases each time.
//!
//! Each rule is a plain function over plain data. The tests run it twice: on the real workspace, where it must find
//! nothing, and on data with the fault put in, where it must find exactly that.

mod dependencies;
mod licences;
mod members;
mod properties;

use std::error::Error;

use cargo_metadata::{Metadata, MetadataCommand};

/// What cargo knows of this workspace on this machine's platform.
///
/// `--offline`: whoever runs this test has built the workspace, so everything is here already. `--locked`: a check
/// does not write, and a lock file that no longer fits is a fault to be told.
fn workspace() -> Result<Metadata, Box<dyn Error>> {
    let options = ["--offline", "--locked", "--filter-platform", "host-tuple"].map(String::from);
    Ok(MetadataCommand::new().other_options(options).exec()?)
}
