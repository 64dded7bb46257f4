//! Bytes as JSON text: as they are where they are UTF-8, else as base64, said by `"encoding":"base64"`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::edge::EdgeError;

/// How keys and values of a document are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// As they are.
    Utf8,
    /// As base64, all of them.
    Base64,
}

impl Encoding {
    /// The one by which all of these can be written.
    pub(crate) fn fitting<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let plain = parts.into_iter().all(|part| std::str::from_utf8(part).is_ok());
        if plain { Self::Utf8 } else { Self::Base64 }
    }

    /// What an answer says of it: nothing where it goes without saying.
    pub(crate) fn said(self) -> Option<Self> {
        (self != Self::Utf8).then_some(self)
    }

    pub(crate) fn write(self, bytes: &[u8]) -> String {
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => STANDARD.encode(bytes),
        }
    }

    /// Reads the field `name`.
    pub(crate) fn read(self, name: &'static str, text: String) -> Result<Bytes, EdgeError> {
        match self {
            Self::Utf8 => Ok(text.into()),
            Self::Base64 => match STANDARD_PAD_INDIFFERENT.decode(text) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(EdgeError::invalid(format!("{name} is not valid base64: {error}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn whatever_the_bytes_they_are_read_back_as_they_were(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let encoding = Encoding::fitting([key.as_slice(), value.as_slice()]);
            for bytes in [key, value] {
                prop_assert_eq!(encoding.read("value", encoding.write(&bytes)).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn text_stays_text_unless_something_beside_it_is_none() {
        assert_eq!(Encoding::fitting(["käse".as_bytes(), b""]), Encoding::Utf8);
        assert_eq!(Encoding::fitting([b"text".as_slice(), b"\xff"]), Encoding::Base64);
    }

    #[test]
    fn base64_may_leave_out_its_padding_and_nothing_else() {
        assert_eq!(Encoding::Base64.read("value", "aGk=".into()).unwrap(), "hi");
        assert_eq!(Encoding::Base64.read("value", "aGk".into()).unwrap(), "hi");
        for wrong in ["a", "aGk*", "aG k=", "aGk==="] {
            let error = Encoding::Base64.read("key", wrong.into()).unwrap_err();
            assert!(error.message.starts_with("key is not valid base64"), "{wrong}: {error}");
        }
    }
}
