//! The sources of settings in their order: defaults, files, environment, `--set`, flags. The later wins.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use strsim::levenshtein;

use super::error::{ConfigError, Problem, Source};
use super::section::Setting;
use super::value::Raw;
use super::{Config, check, file, settings};

/// A setting that was given by a flag of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The setting it stands for.
    pub setting: &'static str,
    /// What follows it.
    pub value: String,
}

/// What an operator gave, from the weakest to the strongest.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// TOML files, each over the ones before.
    pub files: Vec<PathBuf>,
    /// The environment; what does not begin with `CUBE_` is left alone.
    pub variables: Vec<(OsString, OsString)>,
    /// `key=value`, the last one of a key wins.
    pub set: Vec<String>,
    /// Flags.
    pub flags: Vec<Flag>,
}

/// A configuration that a node can run with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Where those came from that are not defaults.
    pub sources: BTreeMap<&'static str, Source>,
    /// What is allowed, and rarely meant.
    pub warnings: Vec<String>,
    /// What has no default and was not given; a node does not start without it.
    pub missing: Vec<Problem>,
}

impl Loaded {
    /// The configuration, if nothing is missing that a node needs.
    pub fn complete(self) -> Result<Config, ConfigError> {
        if self.missing.is_empty() { Ok(self.config) } else { Err(ConfigError::Invalid(self.missing)) }
    }
}

/// Settings as they are taken from the sources.
#[derive(Default)]
pub(super) struct Assignments {
    pub(super) config: Config,
    pub(super) sources: BTreeMap<&'static str, Source>,
    pub(super) problems: Vec<Problem>,
}

impl Assignments {
    pub(super) fn assign(&mut self, setting: &Setting, raw: &Raw<'_>, source: Source) {
        match (setting.read)(&mut self.config, raw) {
            Ok(()) => {
                self.sources.insert(setting.name, source);
            }
            Err(reason) => self.problems.push(Problem { source, setting: setting.name.to_owned(), reason }),
        }
    }

    fn variable(&mut self, name: &str, value: OsString) {
        let source = Source::Variable(name.to_owned());
        let known = settings().find(|setting| variable_of(setting.name) == name);
        let reason = match (known, value.into_string()) {
            (Some(setting), Ok(value)) => return self.assign(setting, &Raw::Text(&value), source),
            (Some(_), Err(_)) => "the value is not UTF-8".to_owned(),
            (None, _) => unknown(name, |setting| variable_of(setting.name)),
        };
        self.problems.push(Problem { source, setting: name.to_owned(), reason });
    }

    fn set(&mut self, assignment: &str) {
        let problem = |setting: &str, reason| Problem { source: Source::Set, setting: setting.to_owned(), reason };
        let Some((name, value)) = assignment.split_once('=') else {
            let reason = "expects key=value, such as --set hints.window=2h".to_owned();
            return self.problems.push(problem(assignment, reason));
        };
        match settings().find(|setting| setting.name == name.trim()) {
            Some(setting) => self.assign(setting, &Raw::Text(value), Source::Set),
            None => self.problems.push(problem(name, unknown(name.trim(), |setting| setting.name.to_owned()))),
        }
    }
}

/// Reads all sources. Every problem is told at once, except that a file must first be readable TOML.
pub fn load(given: &Sources) -> Result<Loaded, ConfigError> {
    load_with(given, |_| {})
}

/// Reads all sources, and then a last one.
pub(super) fn load_with(given: &Sources, last: impl FnOnce(&mut Assignments)) -> Result<Loaded, ConfigError> {
    let mut assignments = Assignments::default();
    for path in &given.files {
        file::read(path, &mut assignments)?;
    }
    for (name, value) in &given.variables {
        if let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && !is_foreign(name, value)) {
            assignments.variable(name, value.clone());
        }
    }
    for assignment in &given.set {
        assignments.set(assignment);
    }
    for flag in &given.flags {
        if let Some(setting) = settings().find(|setting| setting.name == flag.setting) {
            assignments.assign(setting, &Raw::Text(&flag.value), Source::Flag(flag.flag));
        }
    }
    last(&mut assignments);
    let Assignments { config, sources, mut problems } = assignments;
    let findings = check::check(&config, &sources);
    problems.extend(findings.problems);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    Ok(Loaded { config, sources, warnings: findings.warnings, missing: findings.missing })
}

const PREFIX: &str = "CUBE_";

/// The environment variable of a setting: `CUBE_`, then its name in capitals, with dots as underscores. No two settings
/// share one; a test says so.
pub fn variable_of(setting: &str) -> String {
    format!("{PREFIX}{}", setting.replace('.', "_").to_uppercase())
}

/// Variables that begin like ours and are meant for others: the build's and the tests' own, and what Kubernetes puts
/// into every container for a service whose name begins with `cube`.
fn is_foreign(name: &str, value: &OsStr) -> bool {
    const OTHERS: [&str; 5] = ["CUBE_CI_", "CUBE_CLEAN_", "CUBE_TEST_", "CUBE_CRASH_", "CUBE_DISK_FULL_"];
    let is_service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let is_url = value.to_str().is_some_and(|value| value.starts_with("tcp://") || value.starts_with("udp://"));
    let is_link = (name.ends_with("_PORT") && is_url) || name.contains("_TCP") || name.contains("_UDP");
    OTHERS.iter().any(|prefix| name.starts_with(prefix)) || is_service || (name.contains("_PORT") && is_link)
}

/// Why an unknown name is refused, with the right one if one is near. `written` gives names as the source writes them.
pub(super) fn unknown(name: &str, written: impl Fn(&Setting) -> String) -> String {
    let wanted = name.to_lowercase();
    let distances = settings().map(|setting| {
        let candidate = written(setting);
        (levenshtein(&wanted, &candidate.to_lowercase()), candidate)
    });
    // Further away it is another word, not a slip.
    let near_max = (name.len() / 4).max(2);
    // A setting's own name without its section, or in the wrong one.
    let own = |text: &str| text.rsplit('.').next().unwrap_or_default().replace('-', "_");
    let same = settings().map(&written).filter(|candidate| candidate.contains('.') && own(candidate) == own(&wanted));
    let same: Vec<String> = same.collect();
    match (distances.min(), same.as_slice()) {
        (Some((far, nearest)), _) if far <= near_max => format!("there is no such setting; did you mean {nearest}?"),
        (_, [only]) => format!("there is no such setting; did you mean {only}?"),
        _ => "there is no such setting; docs/cubed.toml names them all".to_owned(),
    }
}
