//! What a later release adds to an envelope, as this one sees it: nothing that it would write, and everything to be passed
//! over.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// An extension as it stands in a message. The bytes belong to its tag.
type Extension<'a> = (u32, &'a [u8]);

/// The place of extensions.
pub(super) struct Extensions;

impl Serialize for Extensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let none: [Extension<'_>; 0] = [];
        serializer.collect_seq(none)
    }
}

impl<'de> Deserialize<'de> for Extensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Passing)
    }
}

/// Passes over what it meets, and keeps nothing: a count that promises more than there is takes no memory.
struct Passing;

impl<'de> Visitor<'de> for Passing {
    type Value = Extensions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("extensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut extensions: A) -> Result<Extensions, A::Error> {
        while extensions.next_element::<Extension<'de>>()?.is_some() {}
        Ok(Extensions)
    }
}
