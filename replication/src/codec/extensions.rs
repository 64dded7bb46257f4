//! What may be added to an envelope: the trace of a request that is traced; of a later release's, everything is passed
//! over.

use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::trace::TraceContext;

/// An extension as it stands in a message. The bytes belong to its tag.
type Extension<'a> = (u32, &'a [u8]);

/// A trace and the span that asks, as [`TraceContext::to_bytes`] writes them.
const TRACE: u32 = 1;

/// The extensions of a message.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) trace: Option<TraceContext>,
}

impl Serialize for Extensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut extensions = serializer.serialize_seq(Some(usize::from(self.trace.is_some())))?;
        if let Some(trace) = self.trace {
            let extension: Extension<'_> = (TRACE, &trace.to_bytes());
            extensions.serialize_element(&extension)?;
        }
        extensions.end()
    }
}

impl<'de> Deserialize<'de> for Extensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Passing)
    }
}

/// Passes over what it does not know, and keeps nothing of it: a count that promises more than there is takes no memory.
struct Passing;

impl<'de> Visitor<'de> for Passing {
    type Value = Extensions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("extensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut extensions: A) -> Result<Extensions, A::Error> {
        let mut known = Extensions::default();
        while let Some((tag, bytes)) = extensions.next_element::<Extension<'de>>()? {
            if tag == TRACE {
                // Of another length it is that of a release that means more by it.
                known.trace = TraceContext::from_bytes(bytes);
            }
        }
        Ok(known)
    }
}
