//! What the storage tests' `power.rs` expects under this name.

#[path = "../../../storage/tests/common/random.rs"]
pub(crate) mod random;
