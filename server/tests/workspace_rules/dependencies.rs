//! Dependencies point one way: `server -> replication -> storage`; `client -> proto`; `shell -> client`;
//! `server -> proto`; `benches ->` all.
//!
//! Two rules say it. `wrong_directions` looks at the edges between members: each member has a list of those it may
//! name. `reached` follows every path out of a crate, through other people's crates too, to what it must stay free of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cargo_metadata::{DependencyKind, Metadata, Package};

/// One crate names another one in its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    from: String,
    to: String,
}

fn edge(from: &str, to: &str) -> Edge {
    Edge { from: from.to_owned(), to: to.to_owned() }
}

/// Which members a member may depend on, in its tests too. A member that is not listed here is a fault: whoever adds
/// one states its place.
const ALLOWED: &[(&str, &[&str])] = &[
    ("cube-proto", &[]),
    ("cube-storage", &[]),
    ("cube-replication", &["cube-storage"]),
    ("cube-client", &["cube-proto"]),
    ("cube-shell", &["cube-client"]),
    ("cube-server", &["cube-replication", "cube-storage", "cube-proto"]),
    ("cube-benches", &["cube-proto", "cube-storage", "cube-replication", "cube-server", "cube-client", "cube-shell"]),
];

/// What the tests of a member may use on top: those of the node drive it with the client and the shell.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    ("cube-server", &["cube-client", "cube-shell"]),
    // Nodes that say what a test tells them to.
    ("cube-shell", &["cube-proto"]),
    // Itself, with its simulator turned on.
    ("cube-replication", &["cube-replication"]),
];

/// What a crate must not reach by any path.
struct Ban {
    root: &'static str,
    never: &'static [&'static str],
}

const BANS: &[Ban] = &[
    Ban {
        // One node's data knows no network and no async.
        root: "cube-storage",
        never: &[
            "tokio",
            "async-std",
            "async-executor",
            "async-io",
            "smol",
            "glommio",
            "monoio",
            "compio",
            "futures-executor",
            "hyper",
            "tonic",
            "axum",
            "prost",
            "cube-proto",
        ],
    },
    Ban {
        // The distributed logic sees traits; it must build and run in a simulation without any of these.
        root: "cube-replication",
        never: &["rocksdb", "librocksdb-sys", "tonic", "axum", "hyper", "prost", "cube-proto"],
    },
    Ban { root: "cube-shell", never: &["cube-server"] },
    Ban { root: "cube-client", never: &["cube-server"] },
    Ban { root: "cube-proto", never: &["cube-server"] },
];

/// Every edge from one member to another that no list allows.
fn wrong_directions(members: &BTreeSet<String>, edges: &[Edge], allowed: &[(&str, &[&str])]) -> Vec<String> {
    let may = |edge: &Edge| allowed.iter().any(|(from, to)| *from == edge.from && to.contains(&edge.to.as_str()));
    let unplaced = members
        .iter()
        .filter(|member| !allowed.iter().any(|(from, _)| from == member))
        .map(|member| format!("{member} is a member without a stated place in the order of dependencies"));
    let wrong = edges
        .iter()
        .filter(|edge| members.contains(&edge.from) && members.contains(&edge.to) && !may(edge))
        .map(|edge| format!("{} must not depend on {}", edge.from, edge.to));
    unplaced.chain(wrong).collect()
}

/// The shortest path from `root` to each of `never` that the edges lead to, as `a -> b -> c`.
fn reached(root: &str, edges: &[Edge], never: &[&str]) -> Vec<String> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([root]);
    while let Some(from) = next.pop_front() {
        for edge in edges.iter().filter(|edge| edge.from == from) {
            if edge.to != root && !came_from.contains_key(edge.to.as_str()) {
                came_from.insert(&edge.to, from);
                next.push_back(&edge.to);
            }
        }
    }
    let path = |end: &&str| {
        let mut path = vec![*end];
        let mut at = came_from.get(end);
        while let Some(from) = at {
            path.push(from);
            at = came_from.get(from);
        }
        path.reverse();
        path.join(" -> ")
    };
    never.iter().filter(|name| came_from.contains_key(*name)).map(path).collect()
}

/// The edges as they are when `root` is built alone with all of its own features, its tests included.
///
/// Cargo's graph is that of the whole workspace, where the server turns on the RocksDB engine of the storage crate for
/// all. So for members the features are followed from the root; for other people's crates the graph is taken as it is,
/// which can only show too much.
fn edges_seen_from(root: &str, metadata: &Metadata) -> Vec<Edge> {
    let members: BTreeMap<&str, &Package> =
        metadata.workspace_packages().into_iter().map(|package| (package.name.as_str(), package)).collect();
    let mut edges = member_edges(root, &members);
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    for node in metadata.resolve.iter().flat_map(|resolve| &resolve.nodes) {
        let Some(from) = names.get(&node.id).filter(|name| !members.contains_key(*name)) else { continue };
        let built =
            node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|of| of.kind != DependencyKind::Development));
        edges.extend(built.filter_map(|dep| names.get(&dep.pkg)).map(|to| edge(from, to)));
    }
    edges
}

/// The edges out of `root` and of the members below it, an optional dependency only where a feature asks for it.
fn member_edges(root: &str, members: &BTreeMap<&str, &Package>) -> Vec<Edge> {
    let all_of_root = members.get(root).map(|package| package.features.keys().cloned().collect()).unwrap_or_default();
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::from([(root.to_owned(), all_of_root)]);
    let mut edges = Vec::new();
    let mut next = VecDeque::from([root.to_owned()]);
    while let Some(from) = next.pop_front() {
        let Some(package) = members.get(from.as_str()) else { continue };
        let features = with_implied(package, wanted.get(&from).into_iter().flatten());
        for dependency in &package.dependencies {
            let alias = dependency.rename.as_ref().unwrap_or(&dependency.name);
            let of_tests = dependency.kind == DependencyKind::Development && from != root;
            if of_tests || (dependency.optional && !turns_on(&features, alias)) {
                continue;
            }
            let found = edge(&from, &dependency.name);
            let is_new = !edges.contains(&found);
            if is_new {
                edges.push(found);
            }
            let asked = wanted.entry(dependency.name.clone()).or_default();
            let before = asked.len();
            asked.extend(dependency.features.iter().cloned());
            asked.extend(dependency.uses_default_features.then(|| "default".to_owned()));
            asked.extend(features.iter().filter_map(|feature| feature_of(feature, alias)).map(str::to_owned));
            if is_new || asked.len() > before {
                next.push_back(dependency.name.clone());
            }
        }
    }
    edges
}

/// The wanted features and all that they turn on, in cargo's notation: `name`, `dep:name`, `name/feature`.
fn with_implied<'a>(package: &Package, wanted: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut next: Vec<String> = wanted.cloned().collect();
    while let Some(feature) = next.pop() {
        next.extend(package.features.get(&feature).into_iter().flatten().cloned());
        all.insert(feature);
    }
    all
}

fn turns_on(features: &BTreeSet<String>, alias: &str) -> bool {
    features.iter().any(|feature| {
        feature.strip_prefix("dep:") == Some(alias) || feature.split_once('/').is_some_and(|(name, _)| name == alias)
    })
}

/// `rocks` of `cube-storage/rocks` or `cube-storage?/rocks`, for the alias `cube-storage`.
fn feature_of<'a>(feature: &'a str, alias: &str) -> Option<&'a str> {
    let (name, feature) = feature.split_once('/')?;
    (name.trim_end_matches('?') == alias).then_some(feature)
}

/// All that is wrong in the workspace, one line each.
fn faults(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let declared = |in_tests: bool| -> Vec<Edge> {
        let packages = metadata.workspace_packages().into_iter();
        let pairs = packages.flat_map(|from| from.dependencies.iter().map(move |to| (from, to)));
        let of_kind = pairs.filter(|(_, to)| (to.kind == DependencyKind::Development) == in_tests);
        of_kind.map(|(from, to)| edge(&from.name, &to.name)).collect()
    };
    let in_tests = [ALLOWED, ALLOWED_IN_TESTS].concat();
    let mut found = wrong_directions(&members, &declared(false), ALLOWED);
    found.extend(wrong_directions(&members, &declared(true), &in_tests));
    for ban in BANS {
        found.extend(reached(ban.root, &edges_seen_from(ban.root, metadata), ban.never));
    }
    found
}

#[test]
fn dependencies_of_the_workspace_point_one_way() {
    let metadata = crate::workspace().unwrap();
    assert_eq!(faults(&metadata), Vec::<String>::new());
}

#[test]
fn every_ban_names_a_member_so_that_a_renamed_crate_does_not_escape_it() {
    let metadata = crate::workspace().unwrap();
    for ban in BANS {
        assert!(metadata.workspace_packages().iter().any(|package| package.name == ban.root), "{}", ban.root);
    }
}

#[test]
fn the_graph_that_is_walked_is_the_real_one() {
    let metadata = crate::workspace().unwrap();
    let server = edges_seen_from("cube-server", &metadata);
    assert_eq!(
        reached("cube-server", &server, &["librocksdb-sys", "h2"]).len(),
        2,
        "the server reaches RocksDB through storage and HTTP/2 through tonic"
    );
}

#[test]
fn a_forbidden_edge_put_into_the_workspace_is_found() {
    let metadata = crate::workspace().unwrap();
    let bans = BANS.iter().flat_map(|ban| ban.never.iter().map(move |name| (ban.root, *name)));
    for (root, name) in bans {
        let mut edges = edges_seen_from(root, &metadata);
        edges.push(edge(root, "some-helper"));
        edges.push(edge("some-helper", name));
        assert_eq!(reached(root, &edges, &[name]), [format!("{root} -> some-helper -> {name}")]);
    }
}

#[test]
fn a_member_that_depends_against_the_order_is_found() {
    let members: BTreeSet<String> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let wrong = [
        edge("cube-storage", "cube-replication"),
        edge("cube-replication", "cube-proto"),
        edge("cube-client", "cube-storage"),
        edge("cube-shell", "cube-server"),
        edge("cube-client", "cube-server"),
        edge("cube-proto", "cube-client"),
        edge("cube-server", "cube-client"),
        edge("cube-server", "cube-benches"),
    ];
    for edge in wrong {
        let expected = format!("{} must not depend on {}", edge.from, edge.to);
        assert_eq!(wrong_directions(&members, &[edge], ALLOWED), [expected]);
    }
    let right =
        [edge("cube-server", "cube-replication"), edge("cube-benches", "cube-shell"), edge("cube-shell", "clap")];
    assert_eq!(wrong_directions(&members, &right, ALLOWED), Vec::<String>::new());
}

#[test]
fn a_member_without_a_place_in_the_order_is_found() {
    let members = BTreeSet::from(["cube-proto".to_owned(), "cube-surprise".to_owned()]);
    let found = wrong_directions(&members, &[], ALLOWED);
    assert_eq!(found, ["cube-surprise is a member without a stated place in the order of dependencies"]);
}

#[test]
fn turning_on_the_rocksdb_engine_from_replication_is_found() {
    let asks_in_its_dependency = |replication: &mut Package| {
        let storage = replication.dependencies.iter_mut().find(|dependency| dependency.name == "cube-storage");
        storage.unwrap().features.push("rocks".to_owned());
    };
    let asks_by_a_feature = |replication: &mut Package| {
        replication.features.insert("fast".to_owned(), vec!["cube-storage/rocks".to_owned()]);
    };
    let changes: [&dyn Fn(&mut Package); 2] = [&asks_in_its_dependency, &asks_by_a_feature];
    for change in changes {
        let mut metadata = crate::workspace().unwrap();
        change(metadata.packages.iter_mut().find(|package| package.name == "cube-replication").unwrap());
        let found = reached("cube-replication", &edges_seen_from("cube-replication", &metadata), &["rocksdb"]);
        assert_eq!(found, ["cube-replication -> cube-storage -> rocksdb"]);
    }
}

#[test]
fn a_dependency_added_to_a_member_is_found_in_its_manifest() {
    let mut metadata = crate::workspace().unwrap();
    let tonic = metadata.packages.iter().find(|package| package.name == "cube-proto").unwrap();
    let tonic = tonic.dependencies.iter().find(|dependency| dependency.name == "tonic").unwrap().clone();
    let storage = metadata.packages.iter_mut().find(|package| package.name == "cube-storage").unwrap();
    storage.dependencies.push(tonic);
    assert!(faults(&metadata).contains(&"cube-storage -> tonic".to_owned()));
}
