//! How a setting is tied to its field, so that names, types and defaults stand in one place.

use super::Config;
use super::value::Raw;

/// One setting: its name, and the field of [`Config`] behind it.
pub(super) struct Setting {
    /// As it is written in the file, sections and fields joined by dots.
    pub(super) name: &'static str,
    /// Takes a value from a source, or says what it expects.
    pub(super) read: fn(&mut Config, &Raw<'_>) -> Result<(), String>,
    /// The present value, as TOML.
    pub(super) write: fn(&Config) -> String,
    /// Takes the value of one configuration over into another one.
    pub(super) copy: fn(&Config, &mut Config),
}

/// The setting of a field of [`Config`], or of a field of one of its sections.
macro_rules! setting {
    ($field:ident) => {
        $crate::config::section::Setting {
            name: stringify!($field),
            read: |config, raw| $crate::config::value::Value::read(raw).map(|value| config.$field = value),
            write: |config| $crate::config::value::Value::write(&config.$field),
            copy: |from, to| to.$field.clone_from(&from.$field),
        }
    };
    ($section:ident.$part:ident.$field:ident) => {
        $crate::config::section::Setting {
            name: concat!(stringify!($section), ".", stringify!($part), ".", stringify!($field)),
            read: |config, raw| {
                $crate::config::value::Value::read(raw).map(|value| config.$section.$part.$field = value)
            },
            write: |config| $crate::config::value::Value::write(&config.$section.$part.$field),
            copy: |from, to| to.$section.$part.$field.clone_from(&from.$section.$part.$field),
        }
    };
    ($section:ident.$field:ident) => {
        $crate::config::section::Setting {
            name: concat!(stringify!($section), ".", stringify!($field)),
            read: |config, raw| $crate::config::value::Value::read(raw).map(|value| config.$section.$field = value),
            write: |config| $crate::config::value::Value::write(&config.$section.$field),
            copy: |from, to| to.$section.$field.clone_from(&from.$section.$field),
        }
    };
}

/// A section: a struct with its defaults, and its settings. `in hints` names the field of [`Config`] that holds it, and
/// `in telemetry.traces` the field of a field.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident in $section:ident$(.$part:ident)? { $($(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            pub(super) const SETTINGS: &'static [$crate::config::section::Setting] =
                $crate::config::section::settings!{$section$(.$part)? $($field)*};
        }
    };
}

/// The settings of a section's fields.
macro_rules! settings {
    ($section:ident $($field:ident)*) => { &[$($crate::config::section::setting!($section.$field),)*] };
    ($section:ident.$part:ident $($field:ident)*) => { &[$($crate::config::section::setting!($section.$part.$field),)*] };
}

pub(super) use {section, setting, settings};
