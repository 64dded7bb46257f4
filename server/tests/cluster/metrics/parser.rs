//! A parser of the OpenMetrics text format that refuses whatever the specification does: families told twice or in
//! pieces, samples without a family, names that do not fit their kind or unit, labels out of form, histograms that do
//! not add up.

use std::collections::{BTreeMap, BTreeSet};

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// One line with a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// A family of metrics.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// The families by their names.
pub(crate) type Families = BTreeMap<String, Family>;

const KINDS: [&str; 4] = ["counter", "gauge", "histogram", "info"];

/// Reads a page; panics with what is wrong with it.
pub(crate) fn parse(text: &str) -> Families {
    let text = text.strip_suffix("# EOF\n").expect("a page ends with # EOF and a line feed");
    let mut families = Families::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# ") {
            let mut words = told.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
            if current.as_deref() != Some(name) {
                check_name(name);
                assert!(!families.contains_key(name), "{name} is told in two places");
                let family = Family { kind: String::new(), help: String::new(), unit: None, samples: Vec::new() };
                families.insert(name.to_owned(), family);
                current = Some(name.to_owned());
            }
            let family = families.get_mut(name).unwrap();
            assert!(family.samples.is_empty(), "{line}: comes after samples");
            let place = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => family.unit.get_or_insert_default(),
                _ => panic!("{line}: no such comment"),
            };
            assert!(place.is_empty() && !rest.is_empty(), "{line}: told twice, or nothing");
            rest.clone_into(place);
        } else {
            let sample = read_sample(line).unwrap_or_else(|| panic!("{line:?} is no sample"));
            let name = current.as_ref().unwrap_or_else(|| panic!("{line}: a sample before any family"));
            families.get_mut(name).unwrap().samples.push(sample);
        }
    }
    families.iter().for_each(|(name, family)| check(name, family));
    families
}

fn check_name(name: &str) {
    let fits = |(place, letter): (usize, char)| {
        letter.is_ascii_lowercase() || letter == '_' || (place > 0 && letter.is_ascii_digit())
    };
    assert!(!name.is_empty() && name.chars().enumerate().all(fits), "{name:?} is no name of a metric");
    assert!(!name.contains("__") && !name.ends_with('_'), "{name:?} is no name of a metric");
}

fn check(name: &str, family: &Family) {
    let kind = family.kind.as_str();
    assert!(KINDS.contains(&kind), "{name} has the kind {kind:?}");
    assert!(family.help.len() > 10 && !family.help.ends_with('.'), "{name}: {}", family.help);
    for unit in ["seconds", "bytes"] {
        let says = name.ends_with(&format!("_{unit}"));
        assert_eq!(says, family.unit.as_deref() == Some(unit), "{name} and its unit {:?}", family.unit);
    }
    for wrong in ["_total", "_count", "_sum", "_bucket", "_info", "_ms", "_milliseconds", "_kib", "_percent"] {
        assert!(!name.ends_with(wrong), "{name} ends as no family may");
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "told twice: {sample:?}");
        let suffix = sample.name.strip_prefix(name).unwrap_or_else(|| panic!("{sample:?} is none of {name}"));
        let fits = match kind {
            "counter" => suffix == "_total" && sample.value >= 0.0,
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info" && sample.value == 1.0,
            _ => ["_bucket", "_sum", "_count"].contains(&suffix),
        };
        assert!(fits && !sample.value.is_nan(), "{sample:?} does not fit the {kind} {name}");
    }
    if kind == "histogram" {
        check_histogram(name, &family.samples);
    }
    let label_names: BTreeSet<Vec<&String>> = family
        .samples
        .iter()
        .map(|sample| sample.labels.keys().filter(|label| *label != "le").collect::<Vec<_>>())
        .collect();
    assert!(label_names.len() <= 1, "{name} has samples with different labels: {label_names:?}");
}

fn check_histogram(name: &str, samples: &[Sample]) {
    let mut series: BTreeMap<Labels, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le");
        assert_eq!(le.is_some(), sample.name.ends_with("_bucket"), "{sample:?}");
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let of = |suffix: &str| {
            let whole = format!("{name}{suffix}");
            samples.iter().filter(move |sample| sample.name == whole)
        };
        let bound = |sample: &&&Sample| match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            le => le.parse::<f64>().unwrap(),
        };
        let bounds: Vec<f64> = of("_bucket").map(|sample| bound(&sample)).collect();
        let counts: Vec<f64> = of("_bucket").map(|sample| sample.value).collect();
        assert!(
            bounds.is_sorted_by(|a, b| a < b) && bounds.last() == Some(&f64::INFINITY),
            "{name}{labels:?}: {bounds:?}"
        );
        assert!(counts.is_sorted(), "{name}{labels:?}: buckets are cumulative: {counts:?}");
        let [count, sum] = ["_count", "_sum"].map(|suffix| {
            let mut found = of(suffix);
            let only = found.next().unwrap_or_else(|| panic!("{name}{labels:?} has no {suffix}"));
            assert!(found.next().is_none());
            only.value
        });
        assert_eq!(counts.last(), Some(&count), "{name}{labels:?}");
        assert!(sum >= 0.0);
    }
}

fn read_sample(line: &str) -> Option<Sample> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    check_name(name);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            check_name(label);
            let (value, after) = read_quoted(after)?;
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}: {label} twice");
            let (separator, more) = after.split_at_checked(1)?;
            rest = more;
            match separator {
                "," => {}
                "}" => break,
                _ => return None,
            }
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// What stands before the closing quote, and what comes behind it.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            letter => value.push(letter),
        }
    }
    None
}

#[test]
fn a_sound_page_is_read_and_each_thing_wrong_with_it_is_found() {
    let sound = "# HELP a_seconds How long a takes\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                 a_seconds_sum{x=\"1\"} 3\na_seconds_count{x=\"1\"} 2\na_seconds_bucket{x=\"1\",le=\"0.1\"} 1\n\
                 a_seconds_bucket{x=\"1\",le=\"+Inf\"} 2\n# HELP b How many b there are\n# TYPE b counter\n\
                 b_total{of=\"q\\\"\\\\\\n\"} 7\n# EOF\n";
    let families = parse(sound);
    assert_eq!(families["b"].samples[0].labels["of"], "q\"\\\n");
    for (right, wrong) in [
        ("# EOF\n", ""),
        ("le=\"0.1\"} 1", "le=\"0.1\"} 3"),
        ("count{x=\"1\"} 2", "count{x=\"1\"} 3"),
        ("le=\"+Inf\"", "le=\"9\""),
        ("b_total", "b"),
        ("TYPE b counter", "TYPE b summary"),
        ("# HELP b How many b there are\n", ""),
        ("# UNIT a_seconds seconds\n", ""),
        ("b_total{of=\"q\\\"\\\\\\n\"} 7\n", "b_total 7\nb_total 7\n"),
        ("b_total{of=\"q", "b_total{of=q"),
        (" 7\n", " seven\n"),
    ] {
        assert!(sound.contains(right));
        let page = sound.replacen(right, wrong, 1);
        assert!(std::panic::catch_unwind(|| parse(&page)).is_err(), "{wrong:?} in place of {right:?} was taken");
    }
}
