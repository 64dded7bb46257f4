use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use cube_replication::coordinator::Settings;
use cube_storage::engine::RocksOptions;
use cube_storage::hints::HintLimits;
use cube_storage::model::{Limits, PartitionBits};
use cube_storage::space::Reserve;
use cube_storage::{StoreOptions, SyncPolicy};

use super::*;

fn sources(file: Option<&Path>, variables: &[(&str, &str)], set: &[&str]) -> Sources {
    Sources {
        files: file.into_iter().map(Path::to_owned).collect(),
        variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        set: set.iter().map(|&assignment| assignment.to_owned()).collect(),
        flags: Vec::new(),
    }
}

fn set(assignments: &[&str]) -> Result<Loaded, ConfigError> {
    load(&sources(None, &[], assignments))
}

fn written(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cubed.toml"), text).unwrap();
    dir
}

/// What is said of a file that cannot be used.
fn refused(text: &str) -> String {
    let dir = written(text);
    let error = load(&sources(Some(&dir.path().join("cubed.toml")), &[], &[])).unwrap_err();
    error.to_string().replace(&format!("{}/", dir.path().display()), "")
}

fn docs(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)
}

#[test]
fn the_documented_file_holds_every_setting_at_its_default_and_nothing_else() {
    let loaded = load(&sources(Some(&docs("cubed.toml")), &[], &[])).unwrap();
    assert_eq!(loaded.config, Config::default());
    let documented: Vec<&str> = loaded.sources.keys().copied().collect();
    let existing: BTreeSet<&str> = names().collect();
    assert_eq!(documented, existing.into_iter().collect::<Vec<_>>());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_table_of_settings_names_each_with_its_default_and_variable() {
    let text = fs::read_to_string(docs("configuration.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Settings")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect();
    let rows: Vec<Vec<String>> = section.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let defaults = Config::default();
    let expected = settings().map(|setting| {
        let has_default = !["name", "data_dir"].contains(&setting.name);
        let default = if has_default { (setting.write)(&defaults) } else { "none".to_owned() };
        [setting.name.to_owned(), default, variable_of(setting.name)]
    });
    let told = rows.iter().map(|row| [row[0].clone(), row[1].clone(), row[3].clone()]);
    assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn no_two_settings_share_a_variable() {
    let variables: BTreeSet<String> = names().map(variable_of).collect();
    assert_eq!(variables.len(), names().count());
}

#[test]
fn defaults_are_those_of_the_parts_they_configure() {
    let config = Config::default();
    assert_eq!(config.store_limits(), Limits::default());
    assert_eq!(config.hints.limits(), HintLimits::default());
    assert_eq!(config.coordinator(), Settings::default());
    assert_eq!(config.rocks(), RocksOptions::default());
    assert_eq!(config.reserve(), Reserve::default());
    assert_eq!(config.partition_bits(), PartitionBits::DEFAULT);
    assert_eq!(config.write_queue_bytes_max(), StoreOptions::default().queue_bytes_max);
    assert_eq!(config.sync_policy(), SyncPolicy::Sync);
}

#[test]
fn a_later_source_wins_over_an_earlier_one() {
    let dir = written("dc = \"file\"\nrack = \"file\"\n[hints]\nwindow = \"2h\"\nmax_per_node = 7\n");
    let given = Sources {
        flags: vec![Flag { flag: "--rack", setting: "rack", value: "flag".to_owned() }],
        ..sources(
            Some(&dir.path().join("cubed.toml")),
            &[("CUBE_HINTS_WINDOW", "3h"), ("CUBE_HINTS_MAX_PER_NODE", "8"), ("CUBE_RACK", "variable")],
            &["hints.max_per_node=9", "rack=set"],
        )
    };
    let loaded = load(&given).unwrap();
    assert_eq!(loaded.config.dc, "file");
    assert_eq!(loaded.config.hints.window, Duration::from_secs(3 * 3600));
    assert_eq!(loaded.config.hints.max_per_node, 9);
    assert_eq!(loaded.config.rack, "flag");
    let sources: Vec<String> = loaded.sources.iter().map(|(name, source)| format!("{name} {source}")).collect();
    let file = dir.path().join("cubed.toml");
    let dc = format!("dc {}:1", file.display());
    assert_eq!(sources, [&dc, "hints.max_per_node --set", "hints.window CUBE_HINTS_WINDOW", "rack --rack"]);
}

#[test]
fn what_is_in_effect_can_be_read_back() {
    let changed = [
        "name=node-1",
        "data_dir=/tmp/with \"quotes\"",
        "seeds=a:1,[::1]:2",
        "advertise.peer=example.org",
        "advertise.http=[::1]:99",
        "clock.offset=-5m",
        "hints.enabled=false",
        "hints.window=90m",
        "limits.value=1500KiB",
        "log.format=json",
        "storage.durability=interval",
        "timeouts.drain=0s",
    ];
    let loaded = set(&changed).unwrap();
    let text = effective_toml(&loaded);
    let dir = written(&text);
    let again = load(&sources(Some(&dir.path().join("cubed.toml")), &[], &[])).unwrap();
    assert_eq!(again.config, loaded.config, "{text}");
    assert!(text.contains("window = \"90m\"") && text.contains("# --set") && text.contains("# default"), "{text}");
}

#[test]
fn an_unknown_setting_is_refused_with_its_place_and_the_nearest_right_name() {
    let text = "dc = \"dc1\"\n\n[hints]\nwindw = \"1h\"\n[storage]\nhorizon = \"1s\"\n[nothing]\nlike_this = 1\n";
    assert_eq!(
        refused(text),
        "the configuration cannot be used:\n  \
         hints.windw (cubed.toml:4): there is no such setting; did you mean hints.window?\n  \
         storage.horizon (cubed.toml:6): there is no such setting; did you mean anti_entropy.horizon?\n  \
         nothing (cubed.toml:7): there is no such setting; docs/cubed.toml names them all"
    );
    let error = set(&["hint.window=1h", "gossip", "weight"]).unwrap_err().to_string();
    assert!(error.contains("hint.window (--set): there is no such setting; did you mean hints.window?"), "{error}");
    assert!(error.contains("gossip (--set): expects key=value"), "{error}");
    let error = load(&sources(None, &[("CUBE_HINTS_WINDOWS", "1h")], &[])).unwrap_err().to_string();
    assert!(
        error.contains("(CUBE_HINTS_WINDOWS): there is no such setting; did you mean CUBE_HINTS_WINDOW?"),
        "{error}"
    );
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = [
        ("PATH", "/bin"),
        ("CUBE_CI_CACHE", "/cache"),
        ("CUBE_TEST_ANYTHING", "1"),
        ("CUBE_SERVICE_HOST", "10.0.0.1"),
        ("CUBE_HTTP_SERVICE_PORT", "8080"),
        ("CUBE_PORT", "tcp://10.0.0.1:8080"),
        ("CUBE_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(load(&sources(None, &others, &[])).unwrap().config, Config::default());
    let error = load(&sources(None, &[("CUBE_HTTP_PORT", "8080")], &[])).unwrap_err().to_string();
    assert!(error.contains("CUBE_HTTP_PORT"), "an operator's mistake is not taken for another's: {error}");
}

#[test]
fn a_file_that_is_not_toml_is_refused_at_line_and_column() {
    let told = refused("dc = \"dc1\"\nrack = r1\n");
    assert!(told.starts_with("cubed.toml:2:8: this is not TOML: "), "{told}");
    let missing = Path::new("/there/is/no/such/file.toml");
    let error = load(&sources(Some(missing), &[], &[])).unwrap_err().to_string();
    assert!(error.contains("/there/is/no/such/file.toml cannot be read: No such file"), "{error}");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_what_is_expected() {
    for (text, expected) in [
        ("timeouts = 1", "timeouts (cubed.toml:1): is a section: write [timeouts] and its settings below"),
        ("[timeouts]\nwrite = 2", "timeouts.write (cubed.toml:2): expects a duration of whole milliseconds"),
        ("[timeouts]\nwrite = \"2 parsecs\"", "and \"2 parsecs\" is not one"),
        ("[timeouts]\nwrite = \"5us\"", "expects a duration of whole milliseconds"),
        ("[limits]\nkey = \"4\"", "limits.key (cubed.toml:2): expects a size with its unit"),
        ("[limits]\nkey = \"99999999999TiB\"", "expects a size with its unit"),
        ("weight = -1", "weight (cubed.toml:1): expects a whole number from 0 to 4294967295, and -1 is not one"),
        ("weight = \"2\"", "a whole number from 0 to 4294967295, without quotes"),
        ("[hints]\nenabled = \"yes\"", "hints.enabled (cubed.toml:2): expects true or false, without quotes"),
        ("seeds = \"a:1\"", "seeds (cubed.toml:1): expects a list of addresses"),
        ("seeds = [\"a\"]", "expects HOST:PORT with the peer port of another node, and \"a\" is not one"),
        ("seeds = [\"a:0\"]", "and \"a:0\" is not one"),
        ("[listen]\nhttp = \"8080\"", "listen.http (cubed.toml:2): expects an IP address and a port"),
        ("[storage]\ndurability = \"none\"", "expects \"sync\" or \"interval\", and \"none\" is not one"),
        ("[log]\nlevel = \"loud\"", "log.level (cubed.toml:2): expects a level"),
        ("name.first = \"x\"", "name (cubed.toml:1): expects text"),
    ] {
        let told = refused(text);
        assert!(told.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn settings_that_cannot_stand_together_are_refused_with_the_reason() {
    for (assignments, expected) in [
        (&["name=no spaces"][..], "name (--set): is made of at most 63 letters"),
        (&["dc="], "dc (--set): cannot be empty"),
        (&["weight=10001"], "weight (--set): is at most 10000"),
        (&["partitions=300"], "partitions (--set): is a power of two from 1 to 4096, and 300 is not"),
        (&["partitions=8192"], "partitions (--set): is a power of two from 1 to 4096"),
        (&["partitions=0"], "partitions (--set): is a power of two from 1 to 4096"),
        (&["listen.peer=0.0.0.0:7401"], "advertise.peer (default): must be set, because listen.peer is 0.0.0.0:7401"),
        (&["advertise.http=0.0.0.0:80"], "advertise.http (--set): 0.0.0.0:80 is no address that others could reach"),
        (&["advertise.grpc=example.org:0"], "advertise.grpc (--set): port 0 cannot be reached"),
        (&["listen.peer=127.0.0.1:7400"], "listen.peer (--set): 127.0.0.1:7400 is taken by listen.grpc already"),
        (&["timeouts.read=0s"], "timeouts.read (--set): is between 1ms and 1h, and 0s is not"),
        (&["anti_entropy.horizon=1s"], "anti_entropy.horizon (--set): is 1s, which is less than timeouts.write (2s)"),
        (&["raft.election_min=800ms"], "raft.election_min (--set): is 800ms, and must be at least three times"),
        (&["raft.election_max=1500ms"], "raft.election_max (--set): is 1s 500ms, and must be more than"),
        (&["storage.disk_reserve=1MiB"], "storage.disk_reserve (--set): is 1MiB, and must be at least storage.upkeep"),
        (&["hints.max_bytes=1GiB", "hints.max_bytes_per_node=2GiB"], "hints.max_bytes (--set): is 1GiB, and must be"),
        (&["limits.batch=1MiB"], "limits.batch (--set): is 1MiB, and must be at least limits.value, which is 4MiB"),
        (&["overload.in_flight_max=0"], "overload.in_flight_max (--set): is between 1 and"),
        (&["clock.offset=10000d"], "clock.offset (--set): is at most a year"),
    ] {
        let told = set(assignments).unwrap_err().to_string();
        assert!(told.contains(expected), "{assignments:?}\n{told}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let ConfigError::Invalid(problems) = set(&["weight=x", "dc=", "nonsense=1", "partitions=3"]).unwrap_err() else {
        panic!("the settings are wrong, not the file");
    };
    assert_eq!(problems.len(), 4, "{problems:?}");
}

#[test]
fn a_node_needs_a_name_and_a_data_directory() {
    let told = set(&[]).unwrap().complete().unwrap_err().to_string();
    assert!(told.contains("name (default): is not set") && told.contains("data_dir (default): is not set"), "{told}");
    assert!(set(&["name=node-1", "data_dir=x"]).unwrap().complete().is_ok());
}

#[test]
fn what_is_rarely_meant_is_warned_of() {
    let warned = |assignments: &[&str]| set(assignments).unwrap().warnings.join("\n");
    assert!(warned(&["clock.offset=-5m"]).contains("clock.offset is -5m: this node's clock is wrong on purpose"));
    assert_eq!(set(&["clock.offset=-5m"]).unwrap().config.clock.offset.ms, -300_000);
    assert!(warned(&["seeds=10.0.0.1:7401"]).contains("127.0.0.1:7401, which they can on this machine only"));
    assert_eq!(warned(&["seeds=127.0.0.1:7411"]), "");
}

#[test]
fn a_node_is_known_by_the_port_it_got() {
    let bound = "127.0.0.1:40001".parse().unwrap();
    let advertised = |setting: &str| {
        let config = set(&["listen.peer=127.0.0.1:0", setting]).unwrap().config;
        config.advertised(Port::Peer, bound).to_string()
    };
    assert_eq!(advertised("dc=dc1"), "127.0.0.1:40001");
    assert_eq!(advertised("advertise.peer=example.org"), "example.org:40001");
    assert_eq!(advertised("advertise.peer=example.org:7"), "example.org:7");
    assert_eq!(advertised("advertise.peer=fd00::1"), "[fd00::1]:40001");
}
