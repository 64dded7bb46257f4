//! The settings in effect, as TOML that can be used as a file, each with where it came from.

use super::error::Source;
use super::load::Loaded;
use super::settings;

/// The column at which sources are told.
const SOURCE_COLUMN: usize = 44;

/// Everything in effect.
pub fn effective_toml(loaded: &Loaded) -> String {
    let mut out = String::new();
    let mut present_section = "";
    for setting in settings() {
        let (section, field) = setting.name.rsplit_once('.').unwrap_or(("", setting.name));
        if section != present_section {
            out.push_str(&format!("\n[{section}]\n"));
            present_section = section;
        }
        let line = format!("{field} = {}", (setting.write)(&loaded.config));
        let source = loaded.sources.get(setting.name).unwrap_or(&Source::Default);
        out.push_str(&format!("{line:SOURCE_COLUMN$} # {source}\n"));
    }
    out
}

/// The names of all settings.
pub fn names() -> impl Iterator<Item = &'static str> {
    settings().map(|setting| setting.name)
}
