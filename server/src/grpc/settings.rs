//! The node's settings as messages.

use std::collections::BTreeMap;

use cube_proto::v1;
use cube_proto::v1::setting_value;
use serde_json::Value;

use crate::config::{Change, Live, SettingView};
use crate::edge::EdgeError;

/// All settings.
pub(super) fn reply(settings: Vec<SettingView>) -> v1::SettingsReply {
    v1::SettingsReply { settings: settings.into_iter().map(setting).collect() }
}

fn setting(view: SettingView) -> v1::Setting {
    let SettingView { name, value, source, changeable, after_restart } = view;
    v1::Setting { name: name.to_owned(), value, source, changeable, after_restart }
}

/// Changes settings until the node ends: all of them, or none.
pub(super) fn change(live: &Live, request: v1::ChangeSettingsRequest) -> Result<v1::ChangeSettingsReply, EdgeError> {
    let patch: BTreeMap<String, Value> = request.settings.into_iter().map(|(name, new)| (name, value(new))).collect();
    let Change { changed, needs_restart } = live.patch(&patch)?;
    let names = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
    Ok(v1::ChangeSettingsReply { changed: names(changed), needs_restart: names(needs_restart) })
}

fn value(new: v1::SettingValue) -> Value {
    match new.value {
        None => Value::Null,
        Some(setting_value::Value::Text(text)) => text.into(),
        Some(setting_value::Value::Number(number)) => number.into(),
        Some(setting_value::Value::Flag(flag)) => flag.into(),
    }
}
