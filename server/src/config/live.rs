//! The settings of a node that runs, some of which may change meanwhile.
//!
//! They change when the node is told to read its sources again (SIGHUP), or by `PATCH /api/v1/config`; what is patched
//! stands over all other sources until it is taken back or the node ends. Whoever works by a setting that may change reads
//! it each time from [`Live::current`], or watches. Invariants: the settings in effect always pass the same checks as at
//! the start; a source that is wrong changes nothing; a setting that cannot change keeps the value of the start, and it is
//! told that another one waits for the next start.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;

use super::error::{ConfigError, Problem, Source};
use super::load::{Assignments, Loaded, Sources, load_with, unknown};
use super::section::Setting;
use super::value::Raw;
use super::{Config, HintSettings, check, settings};

/// Settings that may change, by the beginnings of their names: those that are read each time they are used.
const CHANGEABLE: [&str; 8] = [
    "hints.",
    "anti_entropy.",
    "scrub.",
    "log.level",
    "log.slow_requests",
    "timeouts.announce",
    "timeouts.drain",
    "telemetry.traces.sample",
];
/// What is taken for the name of a source.
const PATCH: Source = Source::Patch;

/// Why settings were not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// They cannot be used.
    #[error(transparent)]
    Unusable(#[from] ConfigError),
    /// They are read at the start only.
    #[error("{} can only be changed by a restart: set it in the node's configuration file first", settings.join(", "))]
    NeedsRestart {
        /// Which.
        settings: Vec<&'static str>,
    },
}

/// What a change made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Settings that have another value now.
    pub changed: Vec<&'static str>,
    /// Settings that have another value in the sources, and take it at the next start.
    pub needs_restart: Vec<&'static str>,
}

/// One setting as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingView {
    /// Its name.
    pub name: &'static str,
    /// The value in effect, as TOML.
    pub value: String,
    /// Where it came from.
    pub source: String,
    /// Whether it may change while the node runs.
    pub changeable: bool,
    /// The value that the next start would take, as TOML, where it is another one.
    pub after_restart: Option<String>,
}

/// The settings in effect.
pub struct Live {
    given: Sources,
    state: Mutex<State>,
    current: watch::Sender<Arc<Config>>,
}

struct State {
    sources: BTreeMap<&'static str, Source>,
    patches: BTreeMap<&'static str, Value>,
    /// What the sources say now.
    next: Config,
}

impl Live {
    /// Reads the sources, which must be complete, for the first time; gives what is to be warned of, too.
    pub fn start(given: Sources) -> Result<(Arc<Self>, Vec<String>), ConfigError> {
        let loaded = load_with(&given, |_| {})?;
        let (sources, warnings) = (loaded.sources.clone(), loaded.warnings.clone());
        let config = loaded.complete()?;
        let state = State { sources, patches: BTreeMap::new(), next: config.clone() };
        let live = Self { given, state: Mutex::new(state), current: watch::Sender::new(Arc::new(config)) };
        Ok((Arc::new(live), warnings))
    }

    /// Settings without sources.
    pub fn fixed(config: Config) -> Arc<Self> {
        let state = State { sources: BTreeMap::new(), patches: BTreeMap::new(), next: config.clone() };
        let current = watch::Sender::new(Arc::new(config));
        Arc::new(Self { given: Sources::default(), state: Mutex::new(state), current })
    }

    /// All settings in effect.
    pub fn current(&self) -> Arc<Config> {
        Arc::clone(&self.current.borrow())
    }

    /// How hints are kept now.
    pub fn hints(&self) -> HintSettings {
        self.current.borrow().hints.clone()
    }

    /// The settings in effect, and each time that some change.
    pub fn watch(&self) -> watch::Receiver<Arc<Config>> {
        self.current.subscribe()
    }

    /// Reads the sources again.
    pub fn reload(&self) -> Result<Change, ConfigError> {
        let mut state = self.state.lock();
        let patches = state.patches.clone();
        self.apply(&mut state, patches)
    }

    /// Sets settings by their names until the node ends; `null` takes back what was set so. All of it, or nothing.
    pub fn patch(&self, patch: &BTreeMap<String, Value>) -> Result<Change, ChangeError> {
        let mut state = self.state.lock();
        let mut patches = state.patches.clone();
        let (mut problems, mut fixed) = (Vec::new(), Vec::new());
        for (name, value) in patch {
            match settings().find(|setting| setting.name == name) {
                None => {
                    let reason = unknown(name, |setting| setting.name.to_owned());
                    problems.push(Problem { source: PATCH, setting: name.clone(), reason });
                }
                Some(setting) if !is_changeable(setting.name) => fixed.push(setting.name),
                Some(setting) if value.is_null() => drop(patches.remove(setting.name)),
                Some(setting) => drop(patches.insert(setting.name, value.clone())),
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems).into());
        }
        if !fixed.is_empty() {
            return Err(ChangeError::NeedsRestart { settings: fixed });
        }
        Ok(self.apply(&mut state, patches)?)
    }

    /// Every setting, in the order of the documentation.
    pub fn show(&self) -> Vec<SettingView> {
        let (state, current) = (self.state.lock(), self.current());
        let view = |setting: &'static Setting| {
            let (value, next) = ((setting.write)(&current), (setting.write)(&state.next));
            SettingView {
                name: setting.name,
                source: state.sources.get(setting.name).unwrap_or(&Source::Default).to_string(),
                changeable: is_changeable(setting.name),
                after_restart: (next != value).then_some(next),
                value,
            }
        };
        settings().map(view).collect()
    }

    /// Reads everything, and takes over what may change.
    fn apply(&self, state: &mut State, patches: BTreeMap<&'static str, Value>) -> Result<Change, ConfigError> {
        let loaded = load_with(&self.given, |assignments| assign(assignments, &patches))?;
        let current = self.current();
        let mut config = current.as_ref().clone();
        let mut change = Change::default();
        for setting in settings().filter(|setting| (setting.write)(&loaded.config) != (setting.write)(&current)) {
            if is_changeable(setting.name) {
                (setting.copy)(&loaded.config, &mut config);
                change.changed.push(setting.name);
            } else {
                change.needs_restart.push(setting.name);
            }
        }
        // The new values must go together with those that stay.
        let problems = check::check(&config, &loaded.sources).problems;
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let Loaded { config: next, sources, .. } = loaded;
        for setting in settings().filter(|setting| !change.needs_restart.contains(&setting.name)) {
            match sources.get(setting.name) {
                Some(source) => drop(state.sources.insert(setting.name, source.clone())),
                None => drop(state.sources.remove(setting.name)),
            }
        }
        (state.next, state.patches) = (next, patches);
        if !change.changed.is_empty() {
            self.current.send_replace(Arc::new(config));
        }
        Ok(change)
    }
}

fn is_changeable(setting: &str) -> bool {
    CHANGEABLE.iter().any(|beginning| setting.starts_with(beginning))
}

fn assign(assignments: &mut Assignments, patches: &BTreeMap<&'static str, Value>) {
    for (name, value) in patches {
        let written = value.to_string();
        let raw = match value {
            Value::String(text) => Raw::String(text),
            Value::Bool(value) => Raw::Bool(*value),
            Value::Number(number) => number.as_i64().map_or(Raw::Float(&written), Raw::Integer),
            Value::Null | Value::Array(_) | Value::Object(_) => Raw::Other,
        };
        if let Some(setting) = settings().find(|setting| setting.name == *name) {
            assignments.assign(setting, &raw, PATCH);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct File(tempfile::TempDir);

    impl File {
        fn with(text: &str) -> Self {
            let file = Self(tempfile::tempdir().unwrap());
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            let needed = "name = \"node-1\"\ndata_dir = \"/tmp/node-1\"\n";
            std::fs::write(self.0.path().join("cubed.toml"), format!("{needed}{text}")).unwrap();
        }

        fn live(&self) -> Arc<Live> {
            let sources = Sources { files: vec![self.0.path().join("cubed.toml")], ..Sources::default() };
            Live::start(sources).unwrap().0
        }
    }

    fn patch(entries: &[(&str, Value)]) -> BTreeMap<String, Value> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn what_may_change_changes_when_the_file_is_read_again_and_what_may_not_waits_for_a_restart() {
        let file = File::with("[hints]\nwindow = \"1h\"\n");
        let live = file.live();
        let mut watched = live.watch();
        file.write("[hints]\nwindow = \"2h\"\n[storage]\nblock_cache = \"64MiB\"\n");
        let change = live.reload().unwrap();
        assert_eq!(change, Change { changed: vec!["hints.window"], needs_restart: vec!["storage.block_cache"] });
        assert_eq!(live.hints().window, Duration::from_secs(7_200));
        assert!(watched.has_changed().unwrap());
        assert_eq!(watched.borrow_and_update().storage.block_cache, Config::default().storage.block_cache);
        let shown = live.show();
        let cache = shown.iter().find(|setting| setting.name == "storage.block_cache").unwrap();
        assert_eq!((cache.changeable, cache.after_restart.as_deref()), (false, Some("\"64MiB\"")));
        assert_eq!(live.reload().unwrap().changed, Vec::<&str>::new(), "nothing is new");
        assert!(!watched.has_changed().unwrap());
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing() {
        let file = File::with("");
        let live = file.live();
        let before = live.current();
        for wrong in ["[hints]\nwindow = \"soon\"\n", "[hints\n", "[hints]\nwindows = \"1h\"\n"] {
            file.write(wrong);
            assert!(live.reload().is_err(), "{wrong}");
            assert_eq!(live.current(), before);
        }
    }

    #[test]
    fn a_patch_stands_over_the_file_until_it_is_taken_back() {
        let file = File::with("[hints]\nmax_per_node = 7\n");
        let live = file.live();
        let set = patch(&[("hints.max_per_node", 9.into()), ("hints.enabled", false.into())]);
        assert_eq!(live.patch(&set).unwrap().changed, ["hints.enabled", "hints.max_per_node"]);
        file.write("[hints]\nmax_per_node = 8\n");
        assert_eq!(live.reload().unwrap(), Change::default());
        assert_eq!((live.hints().max_per_node, live.hints().enabled), (9, false));
        let shown = live.show();
        let caps = shown.iter().find(|setting| setting.name == "hints.max_per_node").unwrap();
        assert_eq!((caps.value.as_str(), caps.source.as_str()), ("9", "PATCH /api/v1/config"));
        assert_eq!(live.patch(&patch(&[("hints.max_per_node", Value::Null)])).unwrap().changed, ["hints.max_per_node"]);
        assert_eq!((live.hints().max_per_node, live.hints().enabled), (8, false));
    }

    #[test]
    fn a_patch_is_taken_as_a_whole_or_not_at_all() {
        let file = File::with("");
        let live = file.live();
        let before = live.current();
        let window = ("hints.window", Value::from("2h"));
        let unknown = live.patch(&patch(&[window.clone(), ("hints.windw", 1.into())])).unwrap_err();
        assert!(unknown.to_string().contains("did you mean hints.window?"), "{unknown}");
        let wrong = live.patch(&patch(&[window.clone(), ("hints.enabled", "maybe".into())])).unwrap_err();
        assert!(wrong.to_string().contains("hints.enabled (PATCH /api/v1/config)"), "{wrong}");
        let fixed = live.patch(&patch(&[window, ("listen.http", "127.0.0.1:1".into())])).unwrap_err();
        assert!(matches!(&fixed, ChangeError::NeedsRestart { settings } if *settings == ["listen.http"]), "{fixed}");
        assert_eq!(live.current(), before);
    }

    #[test]
    fn every_setting_that_may_change_exists() {
        for beginning in CHANGEABLE {
            assert!(settings().any(|setting| setting.name.starts_with(beginning)), "{beginning}");
        }
    }
}
