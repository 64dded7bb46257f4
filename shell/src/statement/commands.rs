//! Every command: its name, its options, and what HELP says of it. Parser, completion and help go by this one list.

/// A command as people are told of it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// How it is written.
    pub usage: &'static str,
    /// What it does.
    pub about: &'static str,
    /// One that works.
    pub example: &'static str,
    /// The options with a value that it takes.
    pub options: &'static [&'static str],
    /// The words that it takes.
    pub flags: &'static [&'static str],
}

const WRITE: &[&str] = &["CL", "TTL", "AT", "SORT", "IN", "TIMEOUT"];
const DELETE: &[&str] = &["CL", "AT", "SORT", "IN", "TIMEOUT"];
const READ: &[&str] = &["CL", "SORT", "IN", "TIMEOUT"];
const SCAN: &[&str] = &["KEY", "FROM", "AFTER", "TO", "BEFORE", "LIMIT", "PAGE", "CL", "IN", "TIMEOUT"];
/// The commands that can be explained, and the word that asks for it.
pub const EXPLAINED: &[&str] = &["PUT", "GET", "UPDATE", "DELETE", "SCAN"];
const EXPLAIN: &[&str] = &["EXPLAIN"];
/// What a keyspace is created with.
pub const KEYSPACE_OPTIONS: &[&str] = &["replication", "durability"];
/// What a table is created with.
pub const TABLE_OPTIONS: &[&str] = &["read_repair_chance", "hedge", "grace", "prefix_index", "default_ttl"];

const fn spec(name: &'static str, usage: &'static str, about: &'static str, example: &'static str) -> Spec {
    Spec { name, aliases: &[], usage, about, example, options: &[], flags: &[] }
}

/// All of them, in the order in which HELP lists them.
pub const COMMANDS: &[Spec] = &[
    Spec {
        options: WRITE,
        flags: EXPLAIN,
        ..spec(
            "PUT",
            "PUT key value [SORT=sort] [CL=level] [TTL=60s] [AT=millis] [IN=keyspace.table] [TIMEOUT=5s] [EXPLAIN]",
            "Gives a row a value.",
            "PUT user:alice \"Alice Johnson\" CL=QUORUM",
        )
    },
    Spec {
        options: READ,
        flags: EXPLAIN,
        ..spec(
            "GET",
            "GET key [SORT=sort] [CL=level] [IN=keyspace.table] [TIMEOUT=5s] [EXPLAIN]",
            "Reads a row.",
            "GET user:alice CL=ALL",
        )
    },
    Spec {
        options: WRITE,
        flags: EXPLAIN,
        ..spec(
            "UPDATE",
            "UPDATE key SET value=value [the options of PUT]",
            "Gives a row another value; the same as PUT.",
            "UPDATE user:alice SET value=\"Alice J.\" CL=QUORUM",
        )
    },
    Spec {
        options: DELETE,
        flags: EXPLAIN,
        ..spec(
            "DELETE",
            "DELETE key [SORT=sort] [CL=level] [AT=millis] [IN=keyspace.table] [TIMEOUT=5s] [EXPLAIN]",
            "Deletes a row. Deleting what does not exist is no error.",
            "DELETE user:alice",
        )
    },
    Spec {
        options: SCAN,
        flags: &["BACKWARD", "EXPLAIN"],
        ..spec(
            "SCAN",
            "SCAN [prefix] [PAGE=token] | KEY=key [FROM=sort | AFTER=sort] [TO=sort | BEFORE=sort], and for both \
             [BACKWARD] [LIMIT=100] [CL=level] [IN=keyspace.table] [TIMEOUT=5s] [EXPLAIN]",
            "Lists the rows whose keys begin so, or those of one key in the order of their sort keys.",
            "SCAN user: LIMIT=20",
        )
    },
    spec(
        "EXPLAIN",
        "EXPLAIN statement, for PUT, GET, UPDATE, DELETE and SCAN; the word may also stand at their end",
        "Does a statement, and tells whom it asked for what, what they answered, and what won.",
        "EXPLAIN GET user:alice CL=ALL",
    ),
    spec(
        "CONSISTENCY",
        "CONSISTENCY [level]",
        "Shows or sets the level of the statements that name none.",
        "CONSISTENCY LOCAL_QUORUM",
    ),
    spec(
        "USE",
        "USE [keyspace[.table]]",
        "Shows or sets the keyspace and table of the statements that name none.",
        "USE default.kv",
    ),
    Spec {
        aliases: &["CLUSTER"],
        ..spec("NODES", "NODES", "Lists the members of the cluster and how they do.", "NODES")
    },
    spec("RING", "RING [key]", "Shows how much each node holds, or which nodes hold a key.", "RING user:alice"),
    spec("STATS", "STATS", "Shows the figures of the cluster: nodes, load, pending hints.", "STATS"),
    spec("HINTS", "HINTS", "Shows what nodes keep for members that missed writes.", "HINTS"),
    Spec {
        flags: &["PLAN"],
        ..spec(
            "REPAIR",
            "REPAIR [[keyspace.]table] [PLAN]",
            "Makes the replicas of a table equal, or tells what that would do.",
            "REPAIR default.kv PLAN",
        )
    },
    spec("STATUS", "STATUS", "Shows since when the replicas of each table are in sync.", "STATUS"),
    Spec {
        flags: &["NOW"],
        ..spec(
            "SCRUB",
            "SCRUB [NOW]",
            "Shows how far the nodes are in verifying what they hold, or has them verify all of it now.",
            "SCRUB",
        )
    },
    spec("HEALTH", "HEALTH", "Tells what works now, and what would not if one more node died.", "HEALTH"),
    spec(
        "DECOMMISSION",
        "DECOMMISSION node",
        "Has a living node hand over what it has, and leave the cluster; NODES tells how far it is.",
        "DECOMMISSION node-3",
    ),
    Spec {
        flags: &["ACCEPT", "LOSS"],
        ..spec(
            "REMOVE",
            "REMOVE node [ACCEPT LOSS]",
            "Gives up a node that is gone for good: the others take its place.",
            "REMOVE node-3",
        )
    },
    Spec {
        flags: &["ACCEPT", "LOSS"],
        ..spec(
            "REPLACE",
            "REPLACE node WITH node [ACCEPT LOSS]",
            "Gives up a node that is gone for good: another member takes its place.",
            "REPLACE node-3 WITH node-4",
        )
    },
    Spec {
        flags: &["UNDO"],
        ..spec(
            "DRAIN",
            "DRAIN node [UNDO]",
            "Has a node take no more requests of clients until that is undone or it is restarted; it stays a replica.",
            "DRAIN node-3",
        )
    },
    spec("CONNECT", "CONNECT host [port]", "Talks to another node, or to another cluster.", "CONNECT 127.0.0.1 7400"),
    spec(
        "DISCONNECT",
        "DISCONNECT [node]",
        "Forgets the shell's connection to a node, or to all. The cluster is not changed.",
        "DISCONNECT node-1",
    ),
    spec(
        "DESCRIBE",
        "DESCRIBE [keyspace[.table]]",
        "Shows keyspaces and tables as the statements that would create them.",
        "DESCRIBE default.kv",
    ),
    Spec {
        options: KEYSPACE_OPTIONS,
        ..spec(
            "CREATE KEYSPACE",
            "CREATE KEYSPACE name [replication=simple(3) | network(dc1: 3, dc2: 2)] [durability=sync | 100ms]",
            "Creates a keyspace. One that exists with the same options is no error.",
            "CREATE KEYSPACE app replication=simple(3)",
        )
    },
    Spec {
        options: KEYSPACE_OPTIONS,
        ..spec(
            "ALTER KEYSPACE",
            "ALTER KEYSPACE name [replication=...] [durability=...]",
            "Changes what is named of a keyspace.",
            "ALTER KEYSPACE app durability=100ms",
        )
    },
    spec(
        "DROP KEYSPACE",
        "DROP KEYSPACE name",
        "Drops a keyspace with its tables and their rows.",
        "DROP KEYSPACE app",
    ),
    Spec {
        options: TABLE_OPTIONS,
        ..spec(
            "CREATE TABLE",
            "CREATE TABLE [keyspace.]name [read_repair_chance=10] [hedge=off | p99 | 20ms] [grace=1h] \
             [prefix_index=true] [default_ttl=never | 60s]",
            "Creates a table. One that exists with the same options is no error.",
            "CREATE TABLE app.sessions default_ttl=30m",
        )
    },
    Spec {
        options: TABLE_OPTIONS,
        ..spec(
            "ALTER TABLE",
            "ALTER TABLE [keyspace.]name [the options of CREATE TABLE]",
            "Changes what is named of a table.",
            "ALTER TABLE app.sessions hedge=p99",
        )
    },
    spec("DROP TABLE", "DROP TABLE [keyspace.]name", "Drops a table with its rows.", "DROP TABLE app.sessions"),
    spec("HELP", "HELP [command]", "Lists the commands, or tells how one is used.", "HELP PUT"),
    Spec { aliases: &["QUIT"], ..spec("EXIT", "EXIT", "Ends the shell; so does Ctrl-D.", "EXIT") },
];

/// The command of a name, or of one of its other names.
pub fn find(name: &str) -> Option<&'static Spec> {
    let is_it = |spec: &&Spec| {
        spec.name.eq_ignore_ascii_case(name) || spec.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    };
    COMMANDS.iter().find(is_it)
}

/// The words that a statement can begin with.
pub fn first_words() -> impl Iterator<Item = &'static str> {
    let words = COMMANDS.iter().flat_map(|spec| {
        let first = spec.name.split(' ').next().unwrap_or_default();
        std::iter::once(first).chain(spec.aliases.iter().copied())
    });
    let mut seen: Vec<&str> = Vec::new();
    words.filter(move |word| {
        let is_new = !seen.contains(word);
        seen.push(word);
        is_new
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// What each command is over gRPC. That each of these calls has its like over HTTP is a test of the server, of the same
    /// calls.
    const OVER_GRPC: &[(&str, &[&str])] = &[
        ("PUT", &["Kv/Put"]),
        ("GET", &["Kv/Get"]),
        ("UPDATE", &["Kv/Put"]),
        ("DELETE", &["Kv/Delete"]),
        ("SCAN", &["Kv/Scan", "Kv/Range"]),
        ("EXPLAIN", &["Kv/Get", "Kv/Put", "Kv/Scan", "Kv/Range"]),
        ("NODES", &["Admin/Nodes"]),
        ("RING", &["Admin/Topology"]),
        ("STATS", &["Admin/Stats", "Admin/Hints"]),
        ("HINTS", &["Admin/Hints"]),
        ("REPAIR", &["Admin/StartRepair", "Admin/GetRepair", "Admin/CancelRepair"]),
        ("STATUS", &["Admin/Replication"]),
        ("SCRUB", &["Admin/Scrub"]),
        ("HEALTH", &["Admin/ClusterHealth", "Admin/Health"]),
        ("DECOMMISSION", &["Admin/DecommissionNode"]),
        ("REMOVE", &["Admin/RemoveNode"]),
        ("REPLACE", &["Admin/ReplaceNode"]),
        ("DRAIN", &["Admin/DrainNode"]),
        ("DESCRIBE", &["Admin/Schema"]),
        ("CREATE KEYSPACE", &["Admin/CreateKeyspace"]),
        ("ALTER KEYSPACE", &["Admin/AlterKeyspace"]),
        ("DROP KEYSPACE", &["Admin/DropKeyspace"]),
        ("CREATE TABLE", &["Admin/CreateTable"]),
        ("ALTER TABLE", &["Admin/AlterTable"]),
        ("DROP TABLE", &["Admin/DropTable"]),
    ];
    /// Commands that change the shell alone.
    const OF_THE_SHELL: &[&str] = &["CONSISTENCY", "USE", "CONNECT", "DISCONNECT", "HELP", "EXIT"];

    #[test]
    fn everything_that_the_shell_can_do_can_be_done_over_grpc() {
        let files = FileDescriptorSet::decode(cube_proto::DESCRIPTORS).unwrap().file;
        let services = files.iter().filter(|file| file.package() == "cube.v1").flat_map(|file| &file.service);
        let calls: BTreeSet<String> = services
            .flat_map(|service| service.method.iter().map(|call| format!("{}/{}", service.name(), call.name())))
            .collect();
        for spec in COMMANDS.iter().filter(|spec| !OF_THE_SHELL.contains(&spec.name)) {
            let over_grpc = OVER_GRPC.iter().find(|(name, _)| *name == spec.name);
            let (_, over_grpc) = over_grpc.unwrap_or_else(|| panic!("{} cannot be done over gRPC", spec.name));
            let missing: Vec<_> = over_grpc.iter().filter(|call| !calls.contains(**call)).collect();
            assert!(missing.is_empty() && !over_grpc.is_empty(), "{}: there is no {missing:?}", spec.name);
        }
    }
}
