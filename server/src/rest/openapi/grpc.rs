//! The call of gRPC that does the same as each call over HTTP: whoever can reach one of the two doors can do everything.
//!
//! Invariant, held by the test below: no route is without one, and no call of `cube.v1` is there that no route does,
//! but the one that carries many requests at once.

/// By the names of the routes: the service and the call.
const SAME: &[(&str, &str)] = &[
    ("put", "cube.v1.Kv/Put"),
    ("get", "cube.v1.Kv/Get"),
    ("delete", "cube.v1.Kv/Delete"),
    ("range", "cube.v1.Kv/Range"),
    ("scan", "cube.v1.Kv/Scan"),
    ("putRow", "cube.v1.Kv/Put"),
    ("getRow", "cube.v1.Kv/Get"),
    ("deleteRow", "cube.v1.Kv/Delete"),
    ("putSortedRow", "cube.v1.Kv/Put"),
    ("getSortedRow", "cube.v1.Kv/Get"),
    ("deleteSortedRow", "cube.v1.Kv/Delete"),
    ("batchPut", "cube.v1.Kv/BatchPut"),
    ("batchDelete", "cube.v1.Kv/BatchDelete"),
    ("batchGet", "cube.v1.Kv/BatchGet"),
    ("batchPutRows", "cube.v1.Kv/BatchPut"),
    ("batchDeleteRows", "cube.v1.Kv/BatchDelete"),
    ("batchGetRows", "cube.v1.Kv/BatchGet"),
    ("listKeyspaces", "cube.v1.Admin/Schema"),
    ("createKeyspace", "cube.v1.Admin/CreateKeyspace"),
    ("getKeyspace", "cube.v1.Admin/Schema"),
    ("alterKeyspace", "cube.v1.Admin/AlterKeyspace"),
    ("dropKeyspace", "cube.v1.Admin/DropKeyspace"),
    ("createTable", "cube.v1.Admin/CreateTable"),
    ("getTable", "cube.v1.Admin/Schema"),
    ("alterTable", "cube.v1.Admin/AlterTable"),
    ("dropTable", "cube.v1.Admin/DropTable"),
    ("hints", "cube.v1.Admin/Hints"),
    ("replayHints", "cube.v1.Admin/ReplayHints"),
    ("pauseHints", "cube.v1.Admin/PauseHints"),
    ("resumeHints", "cube.v1.Admin/ResumeHints"),
    ("replication", "cube.v1.Admin/Replication"),
    ("scrub", "cube.v1.Admin/Scrub"),
    ("scrubNow", "cube.v1.Admin/Scrub"),
    ("beginRepair", "cube.v1.Admin/StartRepair"),
    ("repairs", "cube.v1.Admin/ListRepairs"),
    ("repair", "cube.v1.Admin/GetRepair"),
    ("cancelRepair", "cube.v1.Admin/CancelRepair"),
    ("clusterHealth", "cube.v1.Admin/ClusterHealth"),
    ("nodes", "cube.v1.Admin/Nodes"),
    ("topology", "cube.v1.Admin/Topology"),
    ("decommissionNode", "cube.v1.Admin/DecommissionNode"),
    ("removeNode", "cube.v1.Admin/RemoveNode"),
    ("replaceNode", "cube.v1.Admin/ReplaceNode"),
    ("drainNode", "cube.v1.Admin/DrainNode"),
    ("livez", "grpc.health.v1.Health/Check"),
    ("readyz", "cube.v1.Admin/Health"),
    ("health", "cube.v1.Admin/Health"),
    ("stats", "cube.v1.Admin/Stats"),
    ("metrics", "cube.v1.Admin/Metrics"),
    ("slowRequests", "cube.v1.Admin/SlowRequests"),
    ("settings", "cube.v1.Admin/Settings"),
    ("changeSettings", "cube.v1.Admin/ChangeSettings"),
    ("openapi", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ("docs", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
];

/// The call of gRPC that does what a route does.
pub(super) fn same(route: &str) -> Option<&'static str> {
    SAME.iter().find(|(name, _)| *name == route).map(|(_, call)| *call)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::rest::routes;

    /// The call that carries others, many at once. Over HTTP each is a request of its own.
    const OF_MANY: [&str; 1] = ["cube.v1.Kv/Session"];

    /// The calls for clients and operators that there are.
    fn calls() -> BTreeSet<String> {
        let sets = [cube_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
        let mut calls = BTreeSet::new();
        for file in files {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                calls.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
            }
        }
        calls
    }

    #[test]
    fn everything_that_can_be_done_over_http_can_be_done_over_grpc_and_the_other_way_round() {
        let there = calls();
        let mut named: BTreeSet<&str> = OF_MANY.into();
        let mut routes: Vec<&str> = routes::table().iter().map(|route| route.name).collect();
        for route in &routes {
            let call = same(route).unwrap_or_else(|| panic!("{route} cannot be done over gRPC"));
            named.insert(call);
        }
        let reflection = |call: &str| call.starts_with("grpc.reflection.");
        let unknown: Vec<_> = named.iter().filter(|call| !there.contains(**call) && !reflection(call)).collect();
        assert!(unknown.is_empty(), "no such calls: {unknown:?}");
        let ours = there.iter().filter(|call| call.starts_with("cube.v1.Kv/") || call.starts_with("cube.v1.Admin/"));
        let only_there: Vec<_> = ours.filter(|call| !named.contains(call.as_str())).collect();
        assert!(only_there.is_empty(), "these cannot be done over HTTP: {only_there:?}");
        routes.sort_unstable();
        let mut listed: Vec<&str> = SAME.iter().map(|(route, _)| *route).collect();
        listed.sort_unstable();
        assert_eq!(listed, routes, "each route stands in the list once, and nothing else");
    }
}
